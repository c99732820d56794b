"""Faster ways that compute the same as the plain ones: layers, caches, prompts read once for all their completions.

Each is taken only where it was checked against the plain way, on the very model that is used.
"""
