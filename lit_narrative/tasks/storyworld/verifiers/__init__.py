"""Verifiers: components that judge a text as a storyworld, and the score made of them."""

from lit_narrative.tasks.storyworld.verifiers import components  # noqa: F401 (registers the six)
