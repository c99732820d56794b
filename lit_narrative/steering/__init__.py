"""Writing towards an attribute with a model whose weights stay as they are: PPLM and its rivals, best of several."""
