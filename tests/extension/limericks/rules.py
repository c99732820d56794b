"""The rule: what a storyworld earns for short names."""

from lit_narrative.tasks.storyworld.verifiers.base import Context


def short_names(context: Context) -> float:
    """Share of the characters whose names have at most eight letters; 0 for a world without characters."""
    names = list(context.story.characters)
    return sum(len(name) <= 8 for name in names) / len(names) if names else 0.0
