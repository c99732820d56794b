"""Vectors read from a model and put into one: activations, injection, patching, and the words between them."""
