"""Verifiers: components that judge a text as a storyworld, and the score made of them."""

# Importing any module of the package registers the shipped components, so that their names are always known.
from lit_narrative.tasks.storyworld.verifiers import components, soundness  # noqa: F401
