"""Sparse autoencoders, their metrics, and what their features say."""
