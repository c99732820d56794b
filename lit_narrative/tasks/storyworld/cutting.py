"""Pieces of large worlds, cut to a size that a small policy can write: each a plain world of a few encounters.

A file of an author has dozens of encounters and hundreds of thousands of characters. From each of its encounters a
piece is taken: that encounter, and those that can follow it, up to a number. What leads out of the piece ends the
story there. A piece keeps what the simple format says plainly and leaves the rest:

- of an option, its first reaction that leads somewhere, with those before it that do not;
- effects whose change is a number: added, or nudged by it, which is taken as adding it; other scripts are left out;
- gates that compare a variable with a number;
- where selection decides what follows, the next encounter in the file does;
- the variables that are then left, with the values that they have at the start of the whole world;
- texts up to a number of words, whole sentences where there is one.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lit_narrative.errors import check_least
from lit_narrative.tasks.storyworld.expressions import Gate
from lit_narrative.tasks.storyworld.simulator.plan import END
from lit_narrative.tasks.storyworld.world import (
    WILD,
    Effect,
    Encounter,
    Option,
    Reaction,
    Variable,
    World,
    owners,
)

LEAST = 2
"""Encounters of the smallest piece."""
FEW = 3
"""Variables of a piece in which no gate reads one and no effect changes one."""


@dataclass(frozen=True)
class Cut:
    """The size of a piece of a large world.

    Attributes:
        encounters: of a piece at most, 2 or more.
        options: of an encounter at most, the first ones; 1 or more.
        effects: of an option at most, the largest changes; 0 or more.
        words: of a text at most, 1 or more.
    """

    encounters: int = 5
    options: int = 3
    effects: int = 3
    words: int = 16

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            UserError: a number is too small.
        """
        for name, least in (("encounters", LEAST), ("options", 1), ("effects", 0), ("words", 1)):
            check_least(f"data.cut.{name}", getattr(self, name), least)


def pieces(world: World, cut: Cut) -> Iterator[tuple[str, dict[str, Any], str]]:
    """The pieces of a world, one from each encounter that something follows; of equal ones the first alone.

    Yields:
        (id of its first encounter, the piece in the simple format, that in compact JSON).
    """
    seen: set[str] = set()
    places = {one.id: place for place, one in reversed([*enumerate(world.encounters)])}
    for place, encounter in enumerate(world.encounters):
        chosen = _chosen(world, place, places, cut)
        if len(chosen) < LEAST:
            continue
        value = _piece(world, chosen, places, cut).to_json()
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        if text not in seen:
            seen.add(text)
            yield encounter.id, value, text


def shortened(text: str, words: int) -> str:
    """The first sentences of a text that have at most that many words together; else its first words."""
    found = text.split()
    if len(found) <= words:
        return " ".join(found)
    kept = found[:words]
    ends = [place for place, word in enumerate(kept) if word.rstrip("\"'”’)").endswith((".", "!", "?"))]
    return " ".join(kept[: ends[-1] + 1]) if ends else " ".join(kept) + " …"


def _chosen(world: World, start: int, places: dict[str, int], cut: Cut) -> list[int]:
    """Places of the encounters of a piece, breadth first from its start."""
    chosen = [start]
    for place in chosen:
        for option in world.encounters[place].options[: cut.options]:
            target = _target(world, place, _led(option), places)
            if target >= 0 and target not in chosen and len(chosen) < cut.encounters:
                chosen.append(target)
    return chosen


def _led(option: Option) -> tuple[Reaction, ...]:
    """The reactions up to the first that leads somewhere."""
    for count, reaction in enumerate(option.reactions, start=1):
        if reaction.leads:
            return option.reactions[:count]
    return option.reactions


def _target(world: World, place: int, led: Sequence[Reaction], places: dict[str, int]) -> int:
    name = led[-1].next_encounter if led and led[-1].leads else None
    if name == WILD and WILD not in places:
        return place + 1 if place + 1 < len(world.encounters) else END
    return END if name is None else places.get(name, END)


def _piece(world: World, chosen: Sequence[int], places: dict[str, int], cut: Cut) -> World:
    kept = set(chosen)
    encounters = tuple([_encounter(world, place, places, kept, cut) for place in chosen])
    options = [option for one in encounters for option in one.options]
    used = {gate.variable for option in options for gate in option.gates if isinstance(gate, Gate)}
    effects = [effect for option in options for reaction in option.reactions for effect in reaction.effects]
    used |= {effect.variable for effect in effects if isinstance(effect, Effect)}
    # Where nothing is tracked some variables stay all the same: a character without one would be a fault.
    used = used or set([*world.variables][:FEW])
    variables = {name: one for name, one in world.variables.items() if name in used}
    cast = {who for name in variables for who, _ in _parts(name)}
    named = [name for name in world.characters if name in cast] or [*world.characters][:2]
    characters: dict[str, dict[str, float]] = {name: {} for name in named}
    tracked = {what for name in variables for _, what in _parts(name)} | used
    properties = {name: bounds for name, bounds in world.properties.items() if name in tracked}
    return World(characters, variables, encounters, properties, shortened(world.title, cut.words))


def _parts(name: str) -> Iterator[tuple[str, str]]:
    """(character, property) of a variable, ``Mara_trust`` or ``Mara.trust[Teo]``."""
    yield from owners(name)
    who, dot, what = name.partition(".")
    if dot:
        yield who, what.partition("[")[0]


def _encounter(world: World, place: int, places: dict[str, int], kept: set[int], cut: Cut) -> Encounter:
    one = world.encounters[place]
    options = []
    for option in one.options[: cut.options]:
        led = _led(option)
        target = _target(world, place, led, places)
        to = world.encounters[target].id if target in kept else None
        said = " ".join(reaction.text for reaction in led if reaction.text)
        reaction = Reaction(tuple(_effects(world.variables, led, cut.effects)), to, shortened(said, cut.words))
        gates = tuple([Gate(g.variable, g.comparison, g.value) for g in option.gates if isinstance(g, Gate)])
        options.append(Option(option.id, shortened(option.text, cut.words), gates, (reaction,)))
    return Encounter(one.id, shortened(one.text, cut.words), tuple(options))


def _effects(variables: Mapping[str, Variable], led: Sequence[Reaction], most: int) -> Iterator[Effect]:
    """The largest plain changes of some reactions, each variable once, in their order."""
    changes: dict[str, float] = {}
    for effect in [effect for reaction in led for effect in reaction.effects]:
        if isinstance(effect, Effect) and effect.variable in variables and effect.op in ("add", "nudge"):
            change = effect.change if effect.value is None else effect.value
            if isinstance(change, int | float):
                changes[effect.variable] = round(changes.get(effect.variable, 0.0) + change, 6)
    largest = sorted(changes, key=lambda name: -abs(changes[name]))[:most]
    yield from [Effect(name, change) for name, change in changes.items() if name in largest and change]
