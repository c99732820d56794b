"""Train language models to tell stories, and study how they learn it."""

__version__ = "0.1.0"

# Makes what moved since the release before importable from where it was, whichever module is imported first.
from lit_narrative import lookup as lookup
