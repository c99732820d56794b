"""Algorithms as LightningModules, one a file."""
