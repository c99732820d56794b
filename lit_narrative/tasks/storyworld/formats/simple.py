"""The reader of the simple format: lenient, dropping what is malformed and counting it.

``schema.json`` of the task states the same format for other tools. The two agree: :func:`read_world` reports
"malformed" for exactly the values that the schema refuses.
"""

import math
from collections import Counter
from collections.abc import Container, Sequence
from typing import Any

from lit_narrative.tasks.storyworld.issues import json_path
from lit_narrative.tasks.storyworld.world import (
    COMPARISONS,
    LARGEST,
    Effect,
    Encounter,
    Gate,
    Option,
    Reaction,
    Variable,
    World,
    variable_bounds,
)

Path = tuple[str | int, ...]
"""A position: keys, and positions in lists."""
TOP_KEYS = ("characters", "initial_state", "properties", "encounters")
_NUMBER = frozenset((int, float))


def read_world(value: Any) -> tuple[World | None, bool]:
    """Read a parsed JSON value, dropping what is malformed; never raises.

    Args:
        value: any value that ``json.loads`` can return.

    Returns:
        The world, ``None`` where the value is not an object; and whether anything was malformed.
    """
    world, malformed = read_counting(value)
    return world, bool(malformed)


def read_counting(value: Any) -> tuple[World | None, Counter[str]]:
    """As :func:`read_world`, with the number of malformed parts by kind.

    Kinds: ``keys`` (top level), ``characters``, ``initial_state``, ``properties`` (their entries), ``encounters``,
    ``options``, ``gates``, ``reactions``, ``effects``.
    """
    bad: Counter[str] = Counter()
    if type(value) is not dict:
        bad["keys"] += 1
        return None, bad
    parts: dict[str, Any] = {}
    for key in TOP_KEYS:
        kind = list if key == "encounters" else dict
        part = value.get(key)
        parts[key] = part if type(part) is kind else kind()
        if type(part) is not kind or (kind is list and not part):
            bad["keys"] += 1
    characters = _characters(parts["characters"], bad)
    properties = _properties(parts["properties"], bad)
    variables = _variables(parts["initial_state"], characters, properties, bad)
    encounters = tuple(e for e in [_encounter(e, bad) for e in parts["encounters"]] if e is not None)
    return World(characters, variables, encounters, properties), bad


def _characters(value: dict[str, Any], bad: Counter[str]) -> dict[str, dict[str, float]]:
    characters = {}
    for name, values in value.items():
        if type(values) is not dict:
            bad["characters"] += 1
            continue
        numbers = {key: number for key, number in values.items() if _is_number(number)}
        if len(numbers) != len(values):
            bad["characters"] += 1
        characters[name] = numbers
    return characters


def _properties(value: dict[str, Any], bad: Counter[str]) -> dict[str, tuple[float, float]]:
    properties = {}
    for name, bounds in value.items():
        if type(bounds) is not dict:
            bad["properties"] += 1
            continue
        low, high = bounds.get("min", -math.inf), bounds.get("max", math.inf)
        if ("min" in bounds and not _is_number(low)) or ("max" in bounds and not _is_number(high)):
            bad["properties"] += 1
            continue
        properties[name] = (float(low), float(high))
    return properties


def _variables(
    value: dict[str, Any], characters: Container[str], properties: dict[str, tuple[float, float]], bad: Counter[str]
) -> dict[str, Variable]:
    variables = {}
    for name, initial in value.items():
        if _is_number(initial):
            variables[name] = Variable(float(initial), *variable_bounds(name, characters, properties))
        else:
            bad["initial_state"] += 1
    return variables


def _encounter(value: Any, bad: Counter[str]) -> Encounter | None:
    """An encounter, or ``None`` where it has no id, or where no option of it can be read."""
    if type(value) is not dict:
        bad["encounters"] += 1
        return None
    name, text, options = value.get("id"), value.get("text"), value.get("options")
    if type(name) is not str or not name or type(options) is not list:
        bad["encounters"] += 1
        return None
    if type(text) is not str:
        bad["encounters"] += 1
        text = ""
    read = tuple([o for o in [_option(o, bad) for o in options] if o is not None])
    if options and not read:
        return None  # without its options it would pass for an ending
    return Encounter(name, text, read)


def _option(value: Any, bad: Counter[str]) -> Option | None:
    if type(value) is not dict:
        bad["options"] += 1
        return None
    name, text, reactions = value.get("id"), value.get("text"), value.get("reactions")
    if type(name) is not str or not name:
        bad["options"] += 1
        return None
    if type(text) is not str or type(reactions) is not list:
        bad["options"] += 1
        text = text if type(text) is str else ""
        reactions = reactions if type(reactions) is list else []
    gates = value.get("gates", ())
    if gates:
        gates = _gates(gates, bad)
    elif type(gates) is not list and gates != ():
        bad["gates"] += 1
        gates = ()
    return Option(name, text, tuple(gates), tuple([r for r in [_reaction(r, bad) for r in reactions] if r is not None]))


def _gates(value: Any, bad: Counter[str]) -> tuple[Gate, ...]:
    if type(value) is not list:
        bad["gates"] += 1
        return ()
    gates = []
    for item in value:
        if type(item) is dict:
            variable, comparison, number = item.get("variable"), item.get("comparison"), item.get("value")
            if type(variable) is str and variable and _is_comparison(comparison) and _is_number(number):
                gates.append(Gate(variable, comparison, float(number)))  # type: ignore[arg-type]
                continue
        bad["gates"] += 1
    return tuple(gates)


def _reaction(value: Any, bad: Counter[str]) -> Reaction | None:
    if type(value) is not dict:
        bad["reactions"] += 1
        return None
    # By default 0, which is no legal value: an absent key has to be told from null, which ends the story.
    following, text, effects = value.get("next_encounter", 0), value.get("text", ""), value.get("after_effects", ())
    leads = following is None or (type(following) is str and following != "")
    if (not leads and "next_encounter" in value) or type(text) is not str:
        bad["reactions"] += 1
    return Reaction(
        _effects(effects, bad) if effects != () else (),
        following if leads else None,
        text if type(text) is str else "",
        leads,
    )


def _effects(value: Any, bad: Counter[str]) -> tuple[Effect, ...]:
    if type(value) is not list:
        bad["effects"] += 1
        return ()
    effects = []
    for item in value:
        if type(item) is dict:
            variable, change = item.get("variable"), item.get("change")
            if type(variable) is str and variable and _is_number(change):
                effects.append(Effect(variable, float(change)))  # type: ignore[arg-type]
                continue
        bad["effects"] += 1
    return tuple(effects)


def _is_number(value: Any) -> bool:
    """Whether a JSON value is a number of the format: not a boolean, not NaN, of bounded magnitude."""
    # By type(): bool is a subclass of int, and NaN fails the comparison.
    return type(value) in _NUMBER and -LARGEST <= value <= LARGEST


def _is_comparison(value: Any) -> bool:
    return type(value) is str and value in COMPARISONS


def is_kept(kind: str, value: Any) -> bool:
    """Whether the reader keeps an item of a list, where ``kind`` is the key of the list.

    Positions in a :class:`World` count kept items only; this is what turns them into positions in the file.
    """
    bad: Counter[str] = Counter()
    match kind:
        case "encounters":
            if not _has_id(value) or type(value.get("options")) is not list:
                return False
            return not value["options"] or any(map(_has_id, value["options"]))
        case "options":
            return _has_id(value)
        case "gates":
            return bool(_gates([value], bad))
        case "after_effects":
            return bool(_effects([value], bad))
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
