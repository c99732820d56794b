"""What the editor's loader makes of a SweepWeave file: what it would drop, cut or refuse, version 0.1.3 to 0.1.9.

A part that lacks a key that the loader asks for is skipped without a word; the issues here say which.
"""

from collections.abc import Iterator
from typing import Any

from lit_narrative.tasks.storyworld.issues import Issue, Notes, Path

_TIMES = ("creation_index", "creation_time", "modified_time")
CHARACTER = ("name", "pronoun", "bnumber_properties", "id", *_TIMES)
SPOOL = ("id", "spool_name", "encounters", "starts_active", *_TIMES)
PROPERTY = (
    *("id", "property_name", "property_type", "default_value", "depth", "attribution_target", "affected_characters"),
    *_TIMES,
)
ENCOUNTER = (
    *("id", "title", "text_script", "acceptability_script", "desirability_script", "options", "connected_spools"),
    *("earliest_turn", "latest_turn", "graph_position_x", "graph_position_y"),
    *_TIMES,
)
OPTION = ("id", "text_script", "visibility_script", "performability_script", "reactions")
REACTION = ("text_script", "consequence_id", "desirability_script", "after_effects")
EFFECT = ("effect_type", "Set", "to")
EFFECT_TYPES = ("Bounded Number Effect", "Spool Effect")
VERSIONS = range(3, 10)
"""Last numbers of the versions 0.1.x that the loader knows."""
LARGEST_CONSTANT = 0.99


def loader_issues(value: dict[str, Any]) -> tuple[Issue, ...]:
    """What the editor would not load of a parsed file; never raises.

    An error is a part that is lost, a warning a number that is cut.
    """
    notes = Notes()
    _check_version(value.get("sweepweave_version"), notes)
    for key, keys in (("characters", CHARACTER), ("authored_properties", PROPERTY), ("spools", SPOOL)):
        for path, item in _items(value, key, ()):
            _missing(item, keys, path, key, notes)
    for path, encounter in _items(value, "encounters", ()):
        _missing(encounter, ENCOUNTER, path, "encounters", notes)
        for key in ("earliest_turn", "latest_turn", *_TIMES, "graph_position_x", "graph_position_y"):
            number = encounter.get(key, 0)
            if isinstance(number, bool) or not isinstance(number, int | float):
                notes.add(f"number {key}", (*path, key), f"{str(number)[:40]!r} is no number", repair="write a number")
        for place, option in _items(encounter, "options", path):
            _missing(option, OPTION, place, "options", notes)
            for where, reaction in _items(option, "reactions", place):
                _missing(reaction, REACTION, where, "reactions", notes)
                for at, effect in _items(reaction, "after_effects", where):
                    _check_effect(effect, at, notes)
    _check_constants(value, notes)
    return notes.issues()


def _check_version(version: Any, notes: Notes) -> None:
    parts = version.split(".") if isinstance(version, str) else []
    if len(parts) != 3 or parts[:2] != ["0", "1"] or not parts[2].isdecimal() or int(parts[2][:4]) not in VERSIONS:
        message = f"the editor refuses the version {str(version)[:40]!r}"
        notes.add("version", ("sweepweave_version",), message, repair='write "0.1.9"')


def _items(value: dict[str, Any], key: str, path: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    items = value.get(key)
    for i, item in enumerate(items if isinstance(items, list) else ()):
        if isinstance(item, dict):
            yield (*path, key, i), item


def _missing(item: dict[str, Any], keys: tuple[str, ...], path: Path, kind: str, notes: Notes) -> None:
    absent = [key for key in keys if key not in item]
    if absent:
        message = f"the editor skips this part of {kind}: it lacks {', '.join(absent)}"
        notes.add(f"missing {kind}", path, message, repair=f"add {', '.join(absent)}")


def _check_effect(effect: dict[str, Any], path: Path, notes: Notes) -> None:
    _missing(effect, EFFECT, path, "after_effects", notes)
    if effect.get("effect_type") not in EFFECT_TYPES and "effect_type" in effect:
        message = f"the editor drops effects of the type {str(effect['effect_type'])[:40]!r}"
        notes.add("effect type", (*path, "effect_type"), message, repair=f'write "{EFFECT_TYPES[0]}"')


def _check_constants(value: dict[str, Any], notes: Notes) -> None:
    """Constants that the editor cuts to ± ``LARGEST_CONSTANT``."""
    pending: list[tuple[Path, Any]] = [(("encounters",), value.get("encounters"))]
    while pending:
        path, item = pending.pop()
        if isinstance(item, list):
            pending += [((*path, i), item[i]) for i in reversed(range(len(item))) if type(item[i]) in (dict, list)]
        elif isinstance(item, dict):
            number = item.get("value")
            if item.get("pointer_type") == "Bounded Number Constant" and isinstance(number, int | float):
                if abs(number) > LARGEST_CONSTANT + 1e-9:
                    cut = LARGEST_CONSTANT if number > 0 else -LARGEST_CONSTANT
                    notes.add("constant", path, f"the editor cuts {number:g} to {cut:g}", "warning")
            else:
                pending += [((*path, key), inner) for key, inner in item.items() if type(inner) in (dict, list)]
