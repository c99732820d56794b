"""The types of a storyworld, whatever file it was read from, and their JSON in the simple format.

Readers are in ``formats/``; the simulator and the checks know these types alone.
"""

import math
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

COMPARISONS: frozenset[str] = frozenset((">=", "<=", ">", "<", "==", "!="))
LARGEST = 1e9
"""Largest magnitude of any number in a world, so that no play overflows."""
LONGEST_NAME = 256
"""Longest variable name, in characters, that is looked at for the character it belongs to."""
UNBOUNDED = (-math.inf, math.inf)


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


Comparison = Literal[">=", "<=", ">", "<", "==", "!="]


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
        """The world in the simple format; reading it gives the same world back."""
        return {
            "characters": {name: plain_all(values) for name, values in self.characters.items()},
            "initial_state": {name: plain(variable.initial) for name, variable in self.variables.items()},
            "properties": {name: bounds_json(*bounds) for name, bounds in self._all_properties().items()},
            "encounters": [encounter_json(encounter) for encounter in self.encounters],
        }

    def _all_properties(self) -> dict[str, tuple[float, float]]:
        """The declared properties, and an entry for each variable whose bounds do not follow from them."""
        properties = dict(self.properties)
        for name, variable in self.variables.items():
            # An entry is added only where it is needed, so that what was read is written back unchanged.
            bounds = (variable.minimum, variable.maximum)
            if bounds != variable_bounds(name, self.characters, self.properties):
                properties[name] = bounds
        return properties


def owners(variable: str) -> Iterator[tuple[str, str]]:
    """The ways to split a variable's name into (character, property), the longest character first.

    ``Mara_Lou_trust`` is the trust of ``Mara_Lou``, or the ``Lou_trust`` of ``Mara``. Names of more than
    ``LONGEST_NAME`` characters belong to nobody, so that the cost is bounded.
    """
    at = variable.rfind("_") if len(variable) <= LONGEST_NAME else -1
    while at > 0:
        yield variable[:at], variable[at + 1 :]
        # From the right: the first split has the longest character.
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
    at = name.rfind("_") if bounds is None and len(name) <= LONGEST_NAME else -1
    # As `owners`, in a loop of its own: a name may have hundreds of underscores, and thousands of variables such names.
    while at > 0 and bounds is None:
        if name[at + 1 :] in properties and name[:at] in characters:
            bounds = properties[name[at + 1 :]]
        at = name.rfind("_", 0, at)
    if bounds is None or bounds[0] > bounds[1]:
        return UNBOUNDED
    return bounds


def bounds_json(low: float, high: float) -> dict[str, float]:
    """The entry of a property; a bound that is infinite is left out."""
    return {key: plain(bound) for key, bound in (("min", low), ("max", high)) if math.isfinite(bound)}


def plain(number: float) -> float:
    """3 for 3.0, as people and the corpus write it."""
    return int(number) if number == int(number) else number


def plain_all(numbers: Mapping[str, float]) -> dict[str, float]:
    """Each number as :func:`plain` gives it."""
    return {name: plain(number) for name, number in numbers.items()}


def encounter_json(encounter: Encounter) -> dict[str, Any]:
    """The entry of an encounter."""
    return {"id": encounter.id, "text": encounter.text, "options": [_option_json(o) for o in encounter.options]}


def _option_json(option: Option) -> dict[str, Any]:
    return {
        "id": option.id,
        "text": option.text,
        "gates": [{"variable": g.variable, "comparison": g.comparison, "value": plain(g.value)} for g in option.gates],
        "reactions": [_reaction_json(reaction) for reaction in option.reactions],
    }


def _reaction_json(reaction: Reaction) -> dict[str, Any]:
    value: dict[str, Any] = {"text": reaction.text} if reaction.text else {}
    value["after_effects"] = [{"variable": e.variable, "change": plain(e.change)} for e in reaction.effects]
    # An absent key and null differ: without the key the option's next reaction follows, null ends the story.
    if reaction.leads:
        value["next_encounter"] = reaction.next_encounter
    return value
