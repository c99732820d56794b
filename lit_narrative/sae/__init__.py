"""Sparse autoencoders: training, metrics, matching of features, and the information that features carry."""
