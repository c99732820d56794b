"""The simple storyworld format as types: what a world declares, and the lenient reader of parsed JSON.

``schema.json`` beside this file states the same format for other tools. The two agree: :func:`read_world` reports
"malformed" for exactly the values that the schema refuses.
"""

import math
from collections import Counter
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lit_narrative.tasks.storyworld.parts import (
    Comparison,
    Effect,
    Encounter,
    Gate,
    Option,
    Reaction,
    Variable,
    bounds_json,
    encounter_json,
    plain,
    plain_all,
)

__all__ = [
    "COMPARISONS",
    "LARGEST",
    "TOP_KEYS",
    "Comparison",
    "Effect",
    "Encounter",
    "Gate",
    "Option",
    "Reaction",
    "Variable",
    "World",
    "is_kept",
    "owners",
    "read_counting",
    "read_world",
    "variable_bounds",
]

COMPARISONS: frozenset[str] = frozenset((">=", "<=", ">", "<", "==", "!="))
LARGEST = 1e9
"""Largest magnitude of any number in a world, so that no play overflows."""
LONGEST_NAME = 256
"""Longest variable name, in characters, that is looked at for the character it belongs to."""
UNBOUNDED = (-math.inf, math.inf)
TOP_KEYS = ("characters", "initial_state", "properties", "encounters")

_NUMBER = frozenset((int, float))


@dataclass(frozen=True, slots=True)
class World:
    """A storyworld; the first encounter is where every play starts.

    Attributes:
        characters: numbers that describe each character, by name.
        variables: the state, by name.
        encounters: scenes in the order of the file; of two with the same id the first counts.
        properties: declared (minimum, maximum) by property or variable name, as the file has them.
    """

    characters: Mapping[str, Mapping[str, float]]
    variables: Mapping[str, Variable]
    encounters: tuple[Encounter, ...]
    properties: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The world in the simple format; ``read_world(world.to_json())`` gives the same world back."""
        return {
            "characters": {name: plain_all(values) for name, values in self.characters.items()},
            "initial_state": {name: plain(variable.initial) for name, variable in self.variables.items()},
            "properties": {name: bounds_json(*bounds) for name, bounds in self._all_properties().items()},
            "encounters": [encounter_json(encounter) for encounter in self.encounters],
        }

    def _all_properties(self) -> dict[str, tuple[float, float]]:
        """The declared properties, and an own entry for each variable whose bounds do not follow from them."""
        properties = dict(self.properties)
        for name, variable in self.variables.items():
            bounds = (variable.minimum, variable.maximum)
            if bounds != variable_bounds(name, self.characters, self.properties):
                properties[name] = bounds
        return properties


def owners(variable: str) -> Iterator[tuple[str, str]]:
    """How a variable's name may be split into (character, property), the longest character first.

    ``Mara_Lou_trust`` is the trust of ``Mara_Lou``, or the ``Lou_trust`` of ``Mara``. Names of more than
    ``LONGEST_NAME`` characters belong to nobody, so that the cost is bounded.
    """
    at = variable.rfind("_") if len(variable) <= LONGEST_NAME else -1
    while at > 0:
        yield variable[:at], variable[at + 1 :]
        at = variable.rfind("_", 0, at)


def variable_bounds(
    name: str, characters: Container[str], properties: Mapping[str, tuple[float, float]]
) -> tuple[float, float]:
    """Bounds of a variable: those of its own name, else those of the property it is of a character.

    Args:
        name: the variable, for example ``Mara_trust``.
        characters: the declared characters.
        properties: declared (minimum, maximum) by name.

    Returns:
        (minimum, maximum); infinite where nothing is declared, or where the minimum exceeds the maximum.
    """
    bounds = properties.get(name)
    if bounds is None:
        matches = (properties[prop] for who, prop in owners(name) if prop in properties and who in characters)
        bounds = next(matches, None)
    if bounds is None or bounds[0] > bounds[1]:
        return UNBOUNDED
    return bounds


def read_world(value: Any) -> tuple[World | None, bool]:
    """Read a parsed JSON value, dropping what is malformed; never raises.

    Args:
        value: any value that ``json.loads`` can return.

    Returns:
        The world, ``None`` where the value is no object; and whether anything was malformed.
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
    """An encounter, or ``None`` where it has no id, or where its options cannot be read: that is no ending."""
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
        return None
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
    """Whether a JSON value is a number of the format: no boolean, no NaN, of bounded magnitude."""
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
            return _encounter(value, bad) is not None
        case "options":
            return _option(value, bad) is not None
        case "gates":
            return bool(_gates([value], bad))
        case "after_effects":
            return bool(_effects([value], bad))
        case _:
            return type(value) is dict
