"""Which format a parsed value is in. Reading SweepWeave files (the editor's format) starts here once it is written."""

from typing import Any, Literal

from lit_narrative.tasks.storyworld.issues import Issue

Dialect = Literal["simple", "sweepweave"]

_SWEEPWEAVE_KEYS = frozenset(("IFID", "sweepweave_version", "authored_properties", "spools", "storyworld_title"))

UNSUPPORTED = Issue(
    "$",
    "this is a SweepWeave file; reading it is not supported yet: write it in the simple format "
    "(characters, initial_state, properties, encounters)",
)
"""The one issue of a SweepWeave file."""


def detect(value: dict[str, Any]) -> Dialect:
    """The format of a parsed object: SweepWeave has no ``initial_state``, and at least two keys of its own."""
    if "initial_state" not in value and len(_SWEEPWEAVE_KEYS.intersection(value)) >= 2:
        return "sweepweave"
    return "simple"
