"""The cast of a SweepWeave file: characters, their properties, and the variables that these are in a world.

The property ``trust`` of ``mara`` is the variable ``mara.trust``; as ``teo`` perceives it, ``mara.trust[teo]``; and so
on for what one perceives of another's perception.
"""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from lit_narrative.tasks.storyworld.expressions import is_number
from lit_narrative.tasks.storyworld.issues import Notes, Path
from lit_narrative.tasks.storyworld.world import UNBOUNDED, Variable, variable_bounds

GLOBAL = "storyworld"
"""Id of the character that holds, in exported files, the variables that belong to nobody."""
_CHARACTER_KEYS = frozenset(("id", "bnumber_properties"))
_PROPERTY_KEYS = frozenset(("id", "property_name", "default_value"))
MOST_ENTRIES = 20_000
"""Variables of one world; what perceives what multiplies fast."""


def variable_name(character: str, keyring: Sequence[str]) -> str:
    """The variable of a character's property: ``variable_name("mara", ["trust", "teo"])`` is ``mara.trust[teo]``."""
    return f"{character}.{keyring[0]}" + "".join(f"[{key}]" for key in keyring[1:])


def keep(value: dict[str, Any], known: frozenset[str]) -> dict[str, Any]:
    """The keys of a part of the file that the world has no place for."""
    return {key: inner for key, inner in value.items() if key not in known}


class Cast:
    """Characters and properties of a file, and the variables that are declared or read.

    Args:
        value: the file.
        notes: takes what is odd.

    Attributes:
        defaults: value of each authored property where a character has none of its own.
        characters: ids, each with the numbers of its own properties.
        meta: of characters and properties, the keys that the world has no place for.
        values: first value of each variable.
    """

    def __init__(self, value: dict[str, Any], notes: Notes) -> None:
        self.notes = notes
        self.defaults: dict[str, float] = {}
        self.depths: dict[str, int] = {}
        self.characters: dict[str, dict[str, float]] = {}
        self.meta: dict[str, dict[str, Any]] = {"characters": {}, "authored_properties": {}}
        self.values: dict[str, float] = {}
        self._used: dict[str, None] = {}  # properties, in the order in which they are met
        self._properties(value.get("authored_properties"))
        key = "characters" if "characters" in value or "chars" not in value else "chars"
        if key == "chars":
            notes.add("chars", ("chars",), "the key is `characters`", repair="rename `chars` to `characters`")
        self._characters(value.get(key), key)

    def _properties(self, value: Any) -> None:
        if not isinstance(value, list):
            self.notes.add("top", ("authored_properties",), "a list of properties is missing", repair="add `[]`")
            return
        for i, item in enumerate(value):
            path = ("authored_properties", i)
            # Scripts name a property by its name in old files, by its id in new ones; nearly always these are alike.
            given = [item.get(key) for key in ("id", "property_name")] if isinstance(item, dict) else []
            names = [name for name in given if isinstance(name, str) and name]
            if not names:
                self.notes.add("property", path, "a property needs an id")
                continue
            default = item.get("default_value", 0)
            if not is_number(default):
                self.notes.add("property", (*path, "default_value"), "the default is no number", repair="write 0")
                default = 0
            if names[0] in self.depths:
                message = f"a second property {names[0][:80]!r}; the last counts"
                self.notes.add("second property", (*path, "id"), message, repair="leave one of them out")
            depth = item.get("depth", 0)
            if not is_number(depth) or depth not in range(10):
                self.notes.add(
                    "depth", (*path, "depth"), f"{str(depth)[:40]!r} is no depth; it counts as 0", repair="write 0"
                )
                depth = 0
            self.depths[names[0]] = int(depth)
            self.defaults.update(dict.fromkeys(names, float(default)))
            self.meta["authored_properties"][names[0]] = keep(item, _PROPERTY_KEYS)

    def _characters(self, value: Any, key: str) -> None:
        if not isinstance(value, list) or not value:
            self.notes.add("top", (key,), "there are no characters: scripts have nothing to read")
            return
        for i, item in enumerate(value):
            name = item.get("id") if isinstance(item, dict) else None
            if not isinstance(name, str) or not name:
                self.notes.add("character", (key, i), "a character needs an id")
                continue
            if name in self.characters:
                self.notes.add("character", (key, i, "id"), f"a second character {name[:80]!r}; the first counts")
                continue
            self.characters[name] = {}
            self.meta["characters"][name] = keep(item, _CHARACTER_KEYS)
            self._numbers(name, item.get("bnumber_properties"), (key, i, "bnumber_properties"))

    def _numbers(self, name: str, value: Any, path: Path) -> None:
        values = value if isinstance(value, dict) else {}
        if not isinstance(value, dict):
            self.notes.add("character", path, "an object of properties is missing", "warning", "add `{}`")
        for prop, inner in values.items():
            self._stored(name, [prop], inner, (*path, prop))
        for prop, default in self.defaults.items():
            if prop not in values and self.depths.get(prop) == 0:
                self._store(name, [prop], default)

    def _stored(self, name: str, keyring: list[str], value: Any, path: Path) -> None:
        """A number of a character, or an object of the numbers that others perceive."""
        if isinstance(value, dict) and len(keyring) <= 3:
            for other, inner in value.items():
                self._stored(name, [*keyring, other], inner, (*path, other))
        elif is_number(value):
            self._store(name, keyring, float(value))
        else:
            self.notes.add("number", path, "this is no number of at most 1e9", repair="write 0")

    def _store(self, name: str, keyring: list[str], value: float) -> None:
        if len(self.values) < MOST_ENTRIES:
            self.values[variable_name(name, keyring)] = value
            self._used[keyring[0]] = None
            if len(keyring) == 1:
                self.characters[name][f"initial_{keyring[0]}"] = value

    def variable(self, character: Any, keyring: Any, path: Path) -> str | None:
        """The variable that a pointer names, declared if it is not; ``None`` where it names nothing."""
        keys = keyring if isinstance(keyring, list) else [keyring]
        if not isinstance(character, str) or not keys or not all([isinstance(key, str) and key for key in keys]):
            self.notes.add("pointer", path, "a pointer needs a character and a keyring of names; it reads 0")
            return None
        name = variable_name(character, keys)
        if name not in self.values:
            self._declare(character, keys, name, path)
        return name

    def _declare(self, character: str, keys: list[str], name: str, path: Path) -> None:
        for who in (character, *keys[1:]):
            if who not in self.characters:
                near = get_close_matches(who[:80], [one[:80] for one in list(self.characters)[:200]], 1)
                repair = f"write {near[0]!r}" if near else ""
                self.notes.add("unknown character", path, f"there is no character {who[:80]!r}", repair=repair)
        if keys[0] not in self.defaults and variable_name(character, keys[:1]) not in self.values:
            message = f"the property {keys[0][:80]!r} is not authored; it starts at 0"
            self.notes.add("unauthored", path, message, "warning", "add it to `authored_properties`")
        if len(self.values) < MOST_ENTRIES:
            own = self.values.get(variable_name(character, keys[:1]), self.defaults.get(keys[0], 0.0))
            if len(keys) - 1 > self.depths.get(keys[0], 2):
                of = f"the property {keys[0][:80]!r} has depth {self.depths[keys[0]]}"
                message = f"{of}, so that nothing stores this perceived value; it starts at {own:g}, as the own value"
                self.notes.add("perceived", path, message, "warning", f"use a property of depth {len(keys) - 1}")
            self.values[name] = own
            self._used[keys[0]] = None

    def variables(self, bound: float) -> dict[str, Variable]:
        """The variables, bounded to ± ``bound``."""
        return {name: Variable(value, -bound, bound) for name, value in self.values.items()}

    def properties(self, bound: float) -> tuple[dict[str, tuple[float, float]], dict[str, dict[str, Any]]]:
        """Bounds of each property that a variable is of, and of each its default."""
        names = dict.fromkeys([*self.defaults, *self._used])
        bounds = dict.fromkeys(names, (-bound, bound))
        # Of a character that the file does not have, a property says nothing: such a variable has bounds of its own.
        stray = [name for name in self.values if variable_bounds(name, self.characters, bounds) == UNBOUNDED]
        bounds.update(dict.fromkeys(stray, (-bound, bound)))
        defaults = {name: {"default": self.defaults[name]} for name in names if name in self.defaults}
        return bounds, defaults
