"""Checks of a world beyond its shape: names that resolve, ids that are unique, bounds that make sense.

Each check passes or fails as a whole; the component ``schema`` is the share that pass. A fault carries its position in
the *world*. Positions in the file differ where malformed parts were dropped; ``formats.file_paths`` gives those.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple, TypeVar

from lit_narrative.tasks.storyworld.expressions import Condition, Gate, variables_read
from lit_narrative.tasks.storyworld.world import LONGEST_NAME, WILD, Effect, Option, World

Path = tuple[str | int, ...]
Node = TypeVar("Node")


class Fault(NamedTuple):
    """A broken rule: its position in the world, and what is wrong there."""

    path: Path
    message: str


Check = Callable[[World], Iterator[Fault]]


def unique_encounters(world: World) -> Iterator[Fault]:
    """Encounter ids are unique."""
    seen: set[str] = set()
    for i, encounter in enumerate(world.encounters):
        if encounter.id in seen:
            # Cut at 80 characters, here and below: a policy invents ids of any length.
            yield Fault(("encounters", i, "id"), f"a second encounter {encounter.id[:80]!r}; only the first is played")
        seen.add(encounter.id)


def unique_options(world: World) -> Iterator[Fault]:
    """Option ids are unique within their encounter."""
    for i, encounter in enumerate(world.encounters):
        seen: set[str] = set()
        for j, option in enumerate(encounter.options):
            if option.id in seen:
                yield Fault(("encounters", i, "options", j, "id"), f"a second option {option.id[:80]!r}")
            seen.add(option.id)


def resolved_references(world: World) -> Iterator[Fault]:
    """Every ``next_encounter`` names an encounter, or is null or ``WILD``; so does ``start``."""
    # None is known as well: a next_encounter of null ends the story.
    known: set[str | None] = {None, WILD, *[encounter.id for encounter in world.encounters]}
    if world.start not in known:
        yield Fault(("start",), f"dangling reference: there is no encounter {str(world.start)[:80]!r}")
    for i, encounter in enumerate(world.encounters):
        for j, option in enumerate(encounter.options):
            for k, reaction in enumerate(option.reactions):
                if reaction.next_encounter not in known:
                    path = ("encounters", i, "options", j, "reactions", k, "next_encounter")
                    yield Fault(path, f"dangling reference: there is no encounter {reaction.next_encounter[:80]!r}")  # type: ignore[index]


def leading_options(world: World) -> Iterator[Fault]:
    """Every option has a reaction that says what follows."""
    for i, encounter in enumerate(world.encounters):
        for j, option in enumerate(encounter.options):
            # A list, not a generator: of a handful of items it is faster, and this runs on every text of a policy.
            if not any([reaction.leads for reaction in option.reactions]):
                path = ("encounters", i, "options", j, "reactions")
                yield Fault(path, "dead end: no reaction says which encounter follows (null ends the story)")


def ways_out(world: World) -> Iterator[Fault]:
    """No encounter is a trap, with options from which every play goes round for ever.

    An option that is a dead end or a dangling reference leads out: that is a fault of its own.
    """
    follows: dict[str, list[str | None]] = {}
    for encounter in world.encounters:
        if encounter.id not in follows:  # of two encounters with one id the first is played
            targets = [_following(option) for option in encounter.options]
            # Alternatives are rare, and this runs on every text of a policy.
            if any([len(option.reactions) > 1 for option in encounter.options]):
                targets += [target for option in encounter.options for target in _alternatives(option)]
            follows[encounter.id] = targets
    free: set[str | None] = set()
    # Most stories lead forward, so that one look from the last encounter to the first settles all of them.
    for name, targets in reversed(follows.items()):
        if not targets or any([target in free or target not in follows for target in targets]):
            free.add(name)
    if len(free) < len(follows):
        sources: dict[str | None, list[str | None]] = {name: [] for name in follows}
        for name, targets in follows.items():
            for target in [target for target in targets if target in follows]:
                sources[target].append(name)
        free = reaching(free, sources)
    for i, encounter in enumerate(world.encounters if len(free) < len(follows) else ()):
        if encounter.id not in free:
            free.add(encounter.id)  # a second encounter with this id is a fault of its own
            yield Fault(("encounters", i), f"trap: from encounter {encounter.id[:80]!r} no ending can be reached")


def reaching(ends: Iterable[Node], sources: Mapping[Node, Iterable[Node]]) -> set[Node]:
    """The nodes of a graph from which one of ``ends`` can be reached, those among them.

    Args:
        ends: any nodes.
        sources: for each node, those with an edge to it.
    """
    found = set(ends)
    pending = list(found)
    while pending:
        for source in sources[pending.pop()]:
            if source not in found:
                found.add(source)
                pending.append(source)
    return found


def _following(option: Option) -> str | None:
    """Where an option leads: what its first reaction that leads says; None also where none does."""
    for reaction in option.reactions:
        if reaction.leads:
            return reaction.next_encounter
    return None


def _alternatives(option: Option) -> list[str | None]:
    """Where else an option may lead, as some of its reactions are at times more desirable than others."""
    leading = [reaction for reaction in option.reactions if reaction.leads]
    # Of equals the first follows, always.
    return [one.next_encounter for one in leading[1:]] if any([one.desirability != 0 for one in leading]) else []


def declared_gates(world: World) -> Iterator[Fault]:
    """Gates read variables of the initial state."""
    for i, encounter in enumerate(world.encounters):
        for j, option in enumerate(encounter.options):
            for k, gate in enumerate(option.gates):
                # By type, and first: nearly every condition is a gate, and this runs on every text of a policy.
                if type(gate) is Gate:
                    if gate.variable not in world.variables:
                        yield Fault(("encounters", i, "options", j, "gates", k, "variable"), _undeclared(gate.variable))
                else:
                    yield from _undeclared_in(world, gate, ("encounters", i, "options", j, "gates", k))
            for k, condition in enumerate(option.performable):
                yield from _undeclared_in(world, condition, ("encounters", i, "options", j, "performable", k))


def declared_effects(world: World) -> Iterator[Fault]:
    """Effects change variables of the initial state."""
    for i, encounter in enumerate(world.encounters):
        for j, option in enumerate(encounter.options):
            for k, reaction in enumerate(option.reactions):
                for m, effect in enumerate(reaction.effects):
                    if type(effect) is Effect and effect.variable not in world.variables:
                        path = ("encounters", i, "options", j, "reactions", k, "after_effects", m, "variable")
                        yield Fault(path, _undeclared(effect.variable))


def characters_in_play(world: World) -> Iterator[Fault]:
    """Every character has a variable, named ``<character>_<property>``."""
    # Every way to split a name counts: `Mara_Lou_trust` may be of `Mara_Lou` or of `Mara`. Looked for by the lengths of
    # characters' names, which are few, and not at every underscore of a variable, which may be hundreds.
    lengths = {len(name) for name in world.characters if 0 < len(name) < LONGEST_NAME}
    short = [variable for variable in world.variables if len(variable) <= LONGEST_NAME]
    named = {variable[:n] for variable in short for n in lengths if variable[n : n + 1] in ("_", ".")}
    for name in world.characters:
        if name not in named:
            yield Fault(("characters", name), f"no variable {name[:80]}_<property> in initial_state")


def sensible_bounds(world: World) -> Iterator[Fault]:
    """No minimum exceeds its maximum, and variables start within their bounds."""
    for name, (low, high) in world.properties.items():
        if low > high:
            yield Fault(("properties", name), f"min {low:g} exceeds max {high:g}; the bounds are ignored")
    for name, variable in world.variables.items():
        if not variable.minimum <= variable.initial <= variable.maximum:
            bounds = f"[{variable.minimum:g}, {variable.maximum:g}]"
            yield Fault(("initial_state", name), f"{variable.initial:g} lies outside its bounds {bounds}")


def _undeclared_in(world: World, condition: Condition, path: Path) -> Iterator[Fault]:
    for name in dict.fromkeys(variables_read(condition)):
        if name not in world.variables:
            yield Fault(path, _undeclared(name))


def _undeclared(variable: str) -> str:
    return f"variable {variable[:80]!r} is not declared in initial_state"


CHECKS: tuple[tuple[Check, str], ...] = (
    (unique_encounters, "encounters"),
    (unique_options, "options"),
    (resolved_references, "reactions"),
    (leading_options, "options"),
    (ways_out, "options"),
    (declared_gates, "gates"),
    (declared_effects, "effects"),
    (characters_in_play, "characters"),
    (sensible_bounds, "initial_state"),
)
"""The checks, each with the kind of part without which it does not apply."""


def faults(world: World) -> Iterator[Fault]:
    """Every fault that the checks find, check by check."""
    for check, _ in CHECKS:
        yield from check(world)
