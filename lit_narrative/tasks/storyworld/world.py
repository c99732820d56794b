"""The simple storyworld format as types: what a world declares, and the lenient reader of parsed JSON.

``schema.json`` beside this file states the same format for other tools. The two agree: :func:`read_world` reports
"malformed" for exactly the values that the schema refuses.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Comparison = Literal[">=", "<=", ">", "<", "==", "!="]

COMPARISONS: frozenset[str] = frozenset((">=", "<=", ">", "<", "==", "!="))
LARGEST = 1e9
"""Largest magnitude of any number in a world, so that no play overflows."""
TOP_KEYS = ("characters", "initial_state", "properties", "encounters")

_NUMBER = frozenset((int, float))


@dataclass(frozen=True, slots=True)
class Variable:
    """A number of the state, with the bounds that effects are clamped to.

    Attributes:
        initial: value at the start of a play.
        minimum: lower bound, ``-inf`` where none is declared.
        maximum: upper bound, ``inf`` where none is declared.
    """

    initial: float
    minimum: float = -math.inf
    maximum: float = math.inf


@dataclass(frozen=True, slots=True)
class Gate:
    """A condition on one variable; an option is open where all its gates hold."""

    variable: str
    comparison: Comparison
    value: float


@dataclass(frozen=True, slots=True)
class Effect:
    """``variable += change``, then clamped to the variable's bounds."""

    variable: str
    change: float


@dataclass(frozen=True, slots=True)
class Reaction:
    """What follows a choice.

    Attributes:
        effects: changes of the state, in order.
        next_encounter: id of the encounter that follows; ``None`` ends the story here.
        text: what the reader is told.
        leads: whether the reaction says what follows at all. A reaction without the key ``next_encounter`` only
            changes the state, and the next reaction of the option follows it.
    """

    effects: tuple[Effect, ...]
    next_encounter: str | None
    text: str = ""
    leads: bool = True


@dataclass(frozen=True, slots=True)
class Option:
    """A choice that an encounter offers; its reactions are walked up to the first that leads somewhere."""

    id: str
    text: str
    gates: tuple[Gate, ...]
    reactions: tuple[Reaction, ...]


@dataclass(frozen=True, slots=True)
class Encounter:
    """A scene. One without options is an ending."""

    id: str
    text: str
    options: tuple[Option, ...]


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
            "characters": {name: dict(values) for name, values in self.characters.items()},
            "initial_state": {name: variable.initial for name, variable in self.variables.items()},
            "properties": {name: _bounds_json(*bounds) for name, bounds in self._all_properties().items()},
            "encounters": [_encounter_json(encounter) for encounter in self.encounters],
        }

    def _all_properties(self) -> dict[str, tuple[float, float]]:
        """The declared properties, and an own entry for each variable whose bounds do not follow from them."""
        properties = dict(self.properties)
        names = sorted(self.characters, key=len, reverse=True)
        for name, variable in self.variables.items():
            bounds = (variable.minimum, variable.maximum)
            if bounds != variable_bounds(name, names, self.properties):
                properties[name] = bounds
        return properties


def variable_bounds(
    name: str, characters: list[str], properties: Mapping[str, tuple[float, float]]
) -> tuple[float, float]:
    """Bounds of a variable: those of its own name, else those of the property it is of a character.

    Args:
        name: the variable, for example ``Mara_trust``.
        characters: declared character names, longest first, so that ``Mara_Lou_trust`` is Mara_Lou's trust.
        properties: declared (minimum, maximum) by name.

    Returns:
        (minimum, maximum); infinite where nothing is declared, or where the minimum exceeds the maximum.
    """
    bounds = properties.get(name)
    if bounds is None:
        for character in characters:
            if name.startswith(character) and name[len(character) : len(character) + 1] == "_":
                bounds = properties.get(name[len(character) + 1 :])
                if bounds is not None:
                    break
    if bounds is None or bounds[0] > bounds[1]:
        return -math.inf, math.inf
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
    variables = _variables(parts["initial_state"], list(characters), properties, bad)
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
    value: dict[str, Any], characters: list[str], properties: dict[str, tuple[float, float]], bad: Counter[str]
) -> dict[str, Variable]:
    characters.sort(key=len, reverse=True)
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


def _bounds_json(low: float, high: float) -> dict[str, float]:
    return {key: bound for key, bound in (("min", low), ("max", high)) if math.isfinite(bound)}


def _encounter_json(encounter: Encounter) -> dict[str, Any]:
    return {"id": encounter.id, "text": encounter.text, "options": [_option_json(o) for o in encounter.options]}


def _option_json(option: Option) -> dict[str, Any]:
    return {
        "id": option.id,
        "text": option.text,
        "gates": [{"variable": g.variable, "comparison": g.comparison, "value": g.value} for g in option.gates],
        "reactions": [_reaction_json(reaction) for reaction in option.reactions],
    }


def _reaction_json(reaction: Reaction) -> dict[str, Any]:
    value: dict[str, Any] = {"text": reaction.text} if reaction.text else {}
    value["after_effects"] = [{"variable": e.variable, "change": e.change} for e in reaction.effects]
    if reaction.leads:
        value["next_encounter"] = reaction.next_encounter
    return value
