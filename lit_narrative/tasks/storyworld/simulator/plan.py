"""Plans: worlds prepared for play. Names become indices, so that thousands of plays a second are possible."""

from collections.abc import Sequence
from typing import NamedTuple

from lit_narrative.tasks.storyworld.expressions import TOLERANCE, Gate
from lit_narrative.tasks.storyworld.world import Effect, Option, World

END, IMPLICIT, DANGLING = -1, -2, -3
"""Targets of an option that leads to no encounter: the story ends, nothing is said, the id is unknown.

Code compares a target with 0 and with ``END``, so their order counts."""
MOST_PARTS = 2_000_000
"""Bound on the parts that all plays of a world look at together, so that judging any world has a bounded cost."""
Test = tuple[int, float, float, bool]
"""(variable index, low, high, negated): holds where (low <= value <= high) differs from negated."""
Change = tuple[int, float, float, float]
"""(variable index, change, minimum, maximum)."""
_INFINITY = float("inf")


class Choice(NamedTuple):
    """An option of a plan.

    Attributes:
        tests: the gates; open where all hold.
        changes: effects of the walked reactions on declared variables, in order.
        target: index of the encounter that follows, or ``END``, ``IMPLICIT``, ``DANGLING``.
        reaction: position of the reaction that says so; ``None`` where none does.
    """

    tests: tuple[Test, ...]
    changes: tuple[Change, ...]
    target: int
    reaction: int | None


class Plan(NamedTuple):
    """A world by indices.

    Attributes:
        world: the world it was made from.
        names: variable names; the state of a play lists their values in this order, then a constant 0 that
            undeclared variables read.
        start: the initial state, with that constant.
        scenes: for each encounter, its choices.
        first: position of the encounter where plays start.
    """

    world: World
    names: tuple[str, ...]
    start: tuple[float, ...]
    scenes: tuple[tuple[Choice, ...], ...]
    first: int = 0


def make_plan(world: World) -> Plan:
    """Prepare a plain world for play (``world.is_plain``); what only an engine knows is left out of others."""
    variables = {name: i for i, name in enumerate(world.variables)}
    bounds = [(v.minimum, v.maximum) for v in world.variables.values()]
    targets: dict[str | None, int] = {None: END}  # a next_encounter of null ends the story
    for index, encounter in enumerate(world.encounters):
        targets.setdefault(encounter.id, index)  # of two encounters with one id the first counts
    scenes = tuple([tuple([_choice(o, variables, bounds, targets) for o in e.options]) for e in world.encounters])
    start = (*[v.initial for v in world.variables.values()], 0.0)
    return Plan(world, tuple(variables), start, scenes)


def affordable(plan: Plan, runs: int, max_steps: int, most: int = MOST_PARTS) -> int:
    """How many of ``runs`` plays are made: all of them, but of a world with thousands of parts at one step.

    A step looks at every variable, and at the options, gates and effects of an encounter.

    Args:
        plan: the world.
        runs: number of plays asked for, at least 1.
        max_steps: bound on the steps of a play.
        most: bound on the parts looked at in all plays; one play is made whatever it costs.
    """
    # Lists, not generators: this runs on every text, and of a handful of items they are faster.
    options = max([sum([1 + len(choice.tests) for choice in scene]) for scene in plan.scenes], default=0)
    changes = max([len(choice.changes) for scene in plan.scenes for choice in scene], default=0)
    return max(1, min(runs, most // ((len(plan.start) + options + changes) * max_steps)))


def is_open(choice: Choice, state: Sequence[float]) -> bool:
    """Whether every gate of the option holds in ``state``."""
    # A loop, not all(...): half the time, and playing is mostly this.
    for index, low, high, negated in choice.tests:  # noqa: SIM110
        if (low <= state[index] <= high) is negated:
            return False
    return True


def apply(choice: Choice, state: list[float]) -> None:
    """Change ``state`` in place by the option's effects, each clamped to the bounds of its variable."""
    for index, change, low, high in choice.changes:
        value = state[index] + change
        state[index] = low if value < low else high if value > high else value


def _choice(
    option: Option, variables: dict[str, int], bounds: list[tuple[float, float]], targets: dict[str | None, int]
) -> Choice:
    changes: list[Change] = []
    target, leading = IMPLICIT, None
    for position, reaction in enumerate(option.reactions):
        for effect in reaction.effects:
            if isinstance(effect, Effect) and (index := variables.get(effect.variable)) is not None:
                changes.append((index, effect.change, *bounds[index]))
        if reaction.leads:
            target, leading = targets.get(reaction.next_encounter, DANGLING), position
            break  # what follows is decided; later reactions are never walked
    tests = tuple([_test(gate, variables) for gate in option.gates if type(gate) is Gate]) if option.gates else ()
    return Choice(tests, tuple(changes), target, leading)


def _test(gate: Gate, variables: dict[str, int]) -> Test:
    index, value = variables.get(gate.variable, len(variables)), gate.value
    match gate.comparison:
        case ">=":
            return index, value - TOLERANCE, _INFINITY, False
        case "<=":
            return index, -_INFINITY, value + TOLERANCE, False
        case ">":
            # The negation of <=, slack included: a value within the tolerance is equal, hence not greater.
            return index, -_INFINITY, value + TOLERANCE, True
        case "<":
            return index, value - TOLERANCE, _INFINITY, True
        case "==":
            return index, value - TOLERANCE, value + TOLERANCE, False
        case "!=":
            return index, value - TOLERANCE, value + TOLERANCE, True
