"""The types of a storyworld, whatever file it was read from, and their JSON in the simple format.

Readers are in ``formats/``; the simulator and the checks know these types alone. A *plain* world (`is_plain`)
uses none of what engines of storyworlds add: scripts, selection of the next encounter, spools.
"""

import math
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType
from typing import Any, Literal

from lit_narrative.tasks.storyworld.expressions import Condition, Expr, Gate, node_json, plain

LONGEST_NAME = 256
"""Longest variable name, in characters, that is looked at for the character it belongs to."""
UNBOUNDED = (-math.inf, math.inf)
WILD = "wild"
"""A ``next_encounter`` that leaves the choice to the engine, in a world without an encounter of that name."""
Extra = Mapping[str, Any]
"""Keys of a part of the file that the format does not name, kept as they are; ``None`` where there are none."""


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


EffectOp = Literal["add", "nudge", "set"]

# The four types below are not frozen, which would take three times as long to make: rewards read thousands of worlds a
# second. Nothing changes them once they are made.


@dataclass(slots=True, unsafe_hash=True)
class Effect:
    """A change of a variable, then clamped to its bounds.

    Attributes:
        variable: its name.
        change: what is added, where ``value`` is ``None``.
        op: ``add`` adds ``value``, ``set`` puts it in the place of the variable, ``nudge`` moves the variable by it
            (``scripts.asymptotic_nudge``).
        value: worked out of the state as earlier effects of the reaction have left it.
        extra: other keys of the file.
    """

    variable: str
    change: float
    op: EffectOp = "add"
    value: Expr | None = None
    extra: Extra | None = None


@dataclass(frozen=True, slots=True)
class SpoolEffect:
    """A spool is made active or inactive; ``active`` may be a condition on the state."""

    spool: str
    active: bool | Condition
    extra: Extra | None = None


@dataclass(slots=True, unsafe_hash=True)
class Reaction:
    """What follows a choice.

    Attributes:
        effects: changes of the state, in order.
        next_encounter: id of the encounter that follows; ``None`` ends the story here; ``WILD`` leaves it to the
            engine, which selects one (`Encounter`).
        text: what the reader is told.
        leads: whether the reaction says what follows at all. A reaction without the key ``next_encounter`` only
            changes the state, and the next reaction of the option follows it.
        desirability: of the reactions that lead, each with those before it that do not, the most desirable follows.
        extra: other keys of the file.
    """

    effects: tuple[Effect | SpoolEffect, ...]
    next_encounter: str | None
    text: str = ""
    leads: bool = True
    desirability: Expr = 0.0
    extra: Extra | None = None


@dataclass(slots=True, unsafe_hash=True)
class Option:
    """A choice that an encounter offers; its reactions are walked up to the first that leads somewhere.

    Attributes:
        id: its name within the encounter.
        text: what the reader chooses.
        gates: the option is seen where all of these hold.
        reactions: what may follow.
        performable: a seen option can be taken where all of these hold as well.
        extra: other keys of the file.
    """

    id: str
    text: str
    gates: tuple[Condition, ...]
    reactions: tuple[Reaction, ...]
    performable: tuple[Condition, ...] = ()
    extra: Extra | None = None


@dataclass(slots=True, unsafe_hash=True)
class Encounter:
    """A scene. One without options is an ending.

    Attributes:
        id: its name.
        text: what the reader is told.
        options: the choices.
        title: a short name for people.
        spools: the pools it belongs to; where there are any, it is selected only while one of them is active.
        acceptability: it is selected only where all of these hold.
        desirability: of the encounters that can be selected, the most desirable is; of any size.
        turns: first and last turn at which it is selected; a last turn of 0 is no limit.
        extra: other keys of the file.
    """

    id: str
    text: str
    options: tuple[Option, ...]
    title: str = ""
    spools: tuple[str, ...] = ()
    acceptability: tuple[Condition, ...] = ()
    desirability: Expr = 0.0
    turns: tuple[int, int] = (0, 0)
    extra: Extra | None = None


@dataclass(frozen=True, slots=True)
class World:
    """A storyworld.

    Attributes:
        characters: numbers that describe each character, by name.
        variables: the state, by name.
        encounters: scenes in the order of the file; of two with the same id the first counts.
        properties: declared (minimum, maximum) by property or variable name, as the file has them.
        title: a short name for people.
        start: id of the encounter where every play starts; ``None`` for the first.
        spools: pools of encounters by id, with whether they are active at the start.
        property_extra: other keys of the entries of properties, by name.
        extra: other keys of the file.
    """

    characters: Mapping[str, Mapping[str, float]]
    variables: Mapping[str, Variable]
    encounters: tuple[Encounter, ...]
    properties: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    title: str = ""
    start: str | None = None
    spools: Mapping[str, bool] = field(default_factory=dict)
    property_extra: Mapping[str, Extra] = field(default_factory=dict)
    extra: Extra = field(default_factory=dict)

    def __str__(self) -> str:
        return str(notebook().describe_world(self))

    def _repr_html_(self) -> str:
        """The world as a notebook shows it."""
        return str(notebook().world_html(self))

    def to_json(self) -> dict[str, Any]:
        """The world in the simple format; reading it gives the same world back."""
        properties = {
            name: {**bounds_json(*bounds), **self.property_extra.get(name, {})}
            for name, bounds in self._all_properties().items()
        }
        return {
            **({"title": self.title} if self.title else {}),
            **({"start": self.start} if self.start is not None else {}),
            "characters": {name: plain_all(values) for name, values in self.characters.items()},
            "initial_state": {name: plain(variable.initial) for name, variable in self.variables.items()},
            "properties": properties,
            **({"spools": dict(self.spools)} if self.spools else {}),
            "encounters": [encounter_json(encounter) for encounter in self.encounters],
            **self.extra,
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


def notebook() -> ModuleType:
    """What shows worlds to people; found by name, since it knows these types."""
    return import_module("lit_narrative.tasks.storyworld.report.notebook")


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
    if bounds is None and "." in name[:LONGEST_NAME]:
        bounds = _dotted_bounds(name, characters, properties)
    if bounds is None or bounds[0] > bounds[1]:
        return UNBOUNDED
    return bounds


def _dotted_bounds(
    name: str, characters: Container[str], properties: Mapping[str, tuple[float, float]]
) -> tuple[float, float] | None:
    """Bounds of ``<character>.<property>``, also as another character sees it: ``Mara.trust[Teo]``."""
    whole = name if len(name) <= LONGEST_NAME else ""
    at = whole.rfind(".")
    while at > 0:
        if whole[:at] in characters and (found := properties.get(whole[at + 1 :].split("[", 1)[0])) is not None:
            return found
        at = whole.rfind(".", 0, at)
    return None


def bounds_json(low: float, high: float) -> dict[str, float]:
    """The entry of a property; a bound that is infinite is left out."""
    return {key: plain(bound) for key, bound in (("min", low), ("max", high)) if math.isfinite(bound)}


def plain_all(numbers: Mapping[str, float]) -> dict[str, float]:
    """Each number as `plain` gives it."""
    return {name: plain(number) for name, number in numbers.items()}


def encounter_json(encounter: Encounter) -> dict[str, Any]:
    """The entry of an encounter; what has its default is left out, but for the three keys that every one has."""
    value: dict[str, Any] = {"id": encounter.id, "text": encounter.text}
    if encounter.title:
        value["title"] = encounter.title
    if encounter.spools:
        value["spools"] = list(encounter.spools)
    if encounter.acceptability:
        value["acceptability"] = [*map(node_json, encounter.acceptability)]
    if encounter.desirability != 0:
        value["desirability"] = node_json(encounter.desirability)
    if encounter.turns != (0, 0):
        value["turns"] = list(encounter.turns)
    value["options"] = [_option_json(option) for option in encounter.options]
    return {**value, **(encounter.extra or {})}


def _option_json(option: Option) -> dict[str, Any]:
    return {
        "id": option.id,
        "text": option.text,
        "gates": [node_json(gate) for gate in option.gates],
        **({"performable": [*map(node_json, option.performable)]} if option.performable else {}),
        "reactions": [_reaction_json(reaction) for reaction in option.reactions],
        **(option.extra or {}),
    }


def _reaction_json(reaction: Reaction) -> dict[str, Any]:
    value: dict[str, Any] = {"text": reaction.text} if reaction.text else {}
    if reaction.desirability != 0:
        value["desirability"] = node_json(reaction.desirability)
    value["after_effects"] = [_effect_json(effect) for effect in reaction.effects]
    # An absent key and null differ: without the key the option's next reaction follows, null ends the story.
    if reaction.leads:
        value["next_encounter"] = reaction.next_encounter
    return {**value, **(reaction.extra or {})}


def _effect_json(effect: Effect | SpoolEffect) -> dict[str, Any]:
    if isinstance(effect, SpoolEffect):
        active = effect.active if isinstance(effect.active, bool) else node_json(effect.active)
        return {"spool": effect.spool, "active": active, **(effect.extra or {})}
    if effect.value is None:
        return {"variable": effect.variable, "change": plain(effect.change), **(effect.extra or {})}
    return {"variable": effect.variable, "op": effect.op, "value": node_json(effect.value), **(effect.extra or {})}


def is_plain(world: World) -> bool:
    """Whether a world needs no engine: gates on one variable each, effects that add, the first reaction that leads.

    Plays of plain worlds are made by ``simulator/play.py`` and ``quick_plays.py``, thousands a second.
    """
    if world.start is not None and (not world.encounters or world.start != world.encounters[0].id):
        return False
    # Lists, not generators: of a handful of items they are faster, and this runs on every text of a policy.
    options = [option for encounter in world.encounters for option in encounter.options]
    if not all([type(gate) is Gate for option in options for gate in option.gates]):
        return False
    if any([option.performable for option in options]):
        return False
    reactions = [reaction for option in options for reaction in option.reactions]
    if any([reaction.desirability != 0 for reaction in reactions]):
        return False
    # A class pattern costs more than a type: a SpoolEffect has no value.
    effects = [effect for reaction in reactions for effect in reaction.effects]
    if not all([type(effect) is Effect and effect.value is None for effect in effects]):
        return False
    return not any([reaction.next_encounter == WILD for reaction in reactions]) or WILD in [
        encounter.id for encounter in world.encounters
    ]
