"""The parts of a storyworld as types, and how each is written in the simple format."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Comparison = Literal[">=", "<=", ">", "<", "==", "!="]


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
    if reaction.leads:
        value["next_encounter"] = reaction.next_encounter
    return value
