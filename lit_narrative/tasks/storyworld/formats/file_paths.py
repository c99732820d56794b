"""Positions in a file in the simple format of positions in the world that was read from it."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from lit_narrative.tasks.storyworld.formats.simple import read_conditions, read_effects
from lit_narrative.tasks.storyworld.issues import json_path

Path = tuple[str | int, ...]
"""A position: keys, and positions in lists."""


def is_kept(kind: str, value: Any) -> bool:
    """Whether the reader keeps an item of a list, where ``kind`` is the key of the list.

    Positions in a `World` count kept items only; this is what turns them into positions in the file.
    """
    bad: Counter[str] = Counter()
    match kind:
        case "encounters":
            if not _has_id(value) or type(value.get("options")) is not list:
                return False
            return not value["options"] or any(map(_has_id, value["options"]))
        case "options":
            return _has_id(value)
        case "gates" | "performable" | "acceptability":
            return bool(read_conditions([value], bad))
        case "after_effects":
            return bool(read_effects([value], bad))
        case _:
            return type(value) is dict


def _has_id(value: Any) -> bool:
    # What the reader asks for, without reading all that is in the encounter or option.
    return type(value) is dict and type(value.get("id")) is str and value["id"] != ""


class FilePaths:
    """The JSON paths in a file of positions in the world that was read from it.

    Args:
        value: the parsed file.
    """

    def __init__(self, value: Any) -> None:
        self._value = value
        # Worked out once a list: with a walk through it for each of many faults, time would grow with their product.
        self._kept: dict[Path, list[int]] = {}

    def __call__(self, path: Path) -> str:
        """The path in the file of a position in the world."""
        parts: list[str | int] = []
        value, kind = self._value, ""
        for depth, part in enumerate(path):
            if isinstance(part, int):
                part = self._positions(path[:depth], kind, value)[part]
            else:
                kind = part
            parts.append(part)
            value = value.get(part) if isinstance(value, dict) else value[part]  # a key may be what is missing
        return json_path(parts)

    def _positions(self, path: Path, kind: str, items: Sequence[Any]) -> list[int]:
        """Positions in the file of the items that the reader keeps of a list."""
        if path not in self._kept:
            self._kept[path] = [i for i, item in enumerate(items) if is_kept(kind, item)]
        return self._kept[path]
