"""PPLM, plug-and-play language models (Dathathri et al. 2020).

``steerer`` is the algorithm, ``core`` its formulas, ``settings`` its parameters. ``buffered_past``, ``one_token`` and
``flat`` make it fast: keys and values in buffers, their gradient as outer products, and the passes as traced kernels.
"""
