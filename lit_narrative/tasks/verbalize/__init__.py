"""Activations put into words: stories whose content is known, prompts, tables of vectors, and texts to begin from."""
