"""Which dialect of SweepWeave a file is in."""

from typing import Any, Literal

SweepWeaveDialect = Literal["editor", "generated", "mixed", "stub"]
"""As the editor writes files; as programs do, with node types of their own; both in one file; nothing to play."""
_EDITOR = frozenset(("Bounded Number Effect", "Bounded Number Pointer", "Operator"))
_GENERATED = frozenset(("Bounded Number Property", "Bounded Number Operator", "Set"))
_KEYS = ("effect_type", "pointer_type", "script_element_type")
_TOP_KEYS = frozenset(("IFID", "sweepweave_version", "authored_properties", "spools", "storyworld_title"))
_ENCOUNTER_KEYS = frozenset(("text_script", "prompt_script", "connected_spools", "acceptability_script"))


def is_sweepweave(value: dict[str, Any]) -> bool:
    """Whether a parsed object is a SweepWeave file, whole or not.

    It has no ``initial_state``, and two keys that only such files have, at the top or of its first encounter.
    """
    if "initial_state" in value:
        return False
    encounters = value.get("encounters")
    first = encounters[0] if isinstance(encounters, list) and encounters else None
    found = len(_TOP_KEYS.intersection(value)) + len(_ENCOUNTER_KEYS.intersection(first if type(first) is dict else ()))
    return found >= 2


def sweepweave_dialect(value: dict[str, Any]) -> SweepWeaveDialect:
    """The dialect of a SweepWeave file; ``stub`` where no option has a reaction."""
    found: set[str] = set()
    reactions = False
    pending: list[Any] = [value.get("encounters")]
    while pending:
        item = pending.pop()
        if isinstance(item, list):
            pending += item
        elif isinstance(item, dict):
            reactions = reactions or bool(item.get("reactions"))
            found.update([kind for key in _KEYS if isinstance(kind := item.get(key), str)])
            pending += [inner for inner in item.values() if type(inner) in (dict, list)]
    if not reactions:
        return "stub"
    if found & _GENERATED:
        return "mixed" if found & (_EDITOR - {"Operator"}) else "generated"
    return "editor"
