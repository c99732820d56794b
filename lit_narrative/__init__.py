"""Train language models to tell stories, and study how they learn it."""

__version__ = "0.1.0"
