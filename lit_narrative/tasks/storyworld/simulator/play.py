"""Plays of a world: one seeded play, many, or every play there is.

A play starts at the first encounter. At each step one of the open options is chosen, its effects are applied in
order and clamped, and the next encounter follows. Nothing here raises on any world, and every play is bounded.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lit_narrative.tasks.storyworld.simulator.plan import DANGLING, END, IMPLICIT, Plan, apply, is_open, make_plan
from lit_narrative.tasks.storyworld.world import Encounter, World

Outcome = Literal["ending", "implicit", "stuck", "dangling", "timeout"]
MAX_STEPS = 20
"""Bound on the steps of a play, unless another is given."""
OUTCOMES: dict[int, Outcome] = {END: "ending", IMPLICIT: "implicit", DANGLING: "dangling"}


@dataclass(frozen=True, slots=True)
class Step:
    """A moment of a play, before its choice takes effect.

    Attributes:
        encounter: id of the encounter.
        index: its position in the file.
        state: value of each variable.
        options: ids of the encounter's options, in the order of the file.
        open: for each option, whether its gates hold.
        choice: position of the chosen option; ``None`` where there was none to choose.
        turn: number of steps before this one.
        visited: number of distinct encounters seen so far, this one included.
    """

    encounter: str
    index: int
    state: dict[str, float]
    options: tuple[str, ...]
    open: tuple[bool, ...]
    choice: int | None
    turn: int
    visited: int


@dataclass(frozen=True, slots=True)
class Play:
    """A play from the first encounter on.

    Attributes:
        steps: the moments, in order.
        outcome: ``ending`` (the story says so: an encounter without options, or ``next_encounter`` is null),
            ``implicit`` (the chosen option names nothing that follows), ``stuck`` (no option is open),
            ``dangling`` (what follows does not exist), ``timeout`` (the bound on steps was met).
        ending: id of the encounter where an ``ending`` play ended, else ``None``.
        state: value of each variable at the end.
    """

    steps: tuple[Step, ...]
    outcome: Outcome
    ending: str | None
    state: dict[str, float]

    @property
    def choices(self) -> tuple[str, ...]:
        """Ids of the chosen options, in order."""
        return tuple(step.options[step.choice] for step in self.steps if step.choice is not None)


Chooser = Callable[[np.random.Generator, Encounter, dict[str, float], tuple[int, ...]], int]
"""``choose(rng, encounter, state, open_options)`` returns one of ``open_options`` (positions; never empty)."""


def uniform(
    rng: np.random.Generator, encounter: Encounter, state: dict[str, float], open_options: tuple[int, ...]
) -> int:
    """Choose each open option with equal probability."""
    return open_options[int(rng.random() * len(open_options))]


def play(world: World | Plan, rng: np.random.Generator, choose: Chooser = uniform, max_steps: int = MAX_STEPS) -> Play:
    """Play once.

    Args:
        world: a world; a plan where the same world is played often.
        rng: the only source of chance.
        choose: the policy.
        max_steps: bound on the number of steps, at least 1.
    """
    plan = make_plan(world) if isinstance(world, World) else world
    steps: list[Step] = []
    state = list(plan.start)
    named = _named(plan, state)
    seen: set[int] = set()
    index = 0 if plan.scenes else DANGLING
    while index >= 0 and len(steps) < max_steps:
        seen.add(index)
        step = _look(plan, index, state, named, len(steps), len(seen))
        open_options = tuple([i for i, free in enumerate(step.open) if free])
        if not open_options:
            steps.append(step)
            return _ended(plan, steps, state, "stuck" if step.options else "ending")
        choice = choose(rng, plan.world.encounters[index], step.state, open_options)
        steps.append(_chosen(step, choice))
        taken = plan.scenes[index][choice]
        apply(taken, state)
        # A copy with what has changed: with all values named anew, a world of many variables would take long.
        named = {**named, **{plan.names[i]: _shown(state[i]) for i in {change[0] for change in taken.changes}}}
        index = taken.target
    return _ended(plan, steps, state, OUTCOMES.get(index, "timeout"))


def plays(
    world: World | Plan,
    runs: int,
    rng: np.random.Generator,
    choose: Chooser = uniform,
    max_steps: int = MAX_STEPS,
) -> Iterator[Play]:
    """Play ``runs`` times, one after the other, drawing from ``rng``."""
    plan = make_plan(world) if isinstance(world, World) else world
    for _ in range(runs):
        yield play(plan, rng, choose, max_steps)


def all_paths(world: World | Plan, limit: int = 10_000, max_steps: int = MAX_STEPS) -> list[Play]:
    """Every play that open options allow, depth first in the order of the file.

    Args:
        world: the world.
        limit: largest number of plays returned; the rest is left out.
        max_steps: bound on the steps of each play (``timeout`` beyond it).
    """
    plan = make_plan(world) if isinstance(world, World) else world
    return list(_paths_from(plan, limit, max_steps))


def _paths_from(plan: Plan, limit: int, max_steps: int) -> Iterator[Play]:
    count = 0
    # A stack rather than recursion: a play may be longer than Python's stack is deep.
    pending: list[tuple[int, list[float], list[Step]]] = [(0 if plan.scenes else DANGLING, list(plan.start), [])]
    while pending and count < limit:
        index, state, steps = pending.pop()
        if index < 0 or len(steps) >= max_steps:
            count += 1
            yield _ended(plan, steps, state, OUTCOMES.get(index, "timeout"))
            continue
        seen = {step.index for step in steps} | {index}
        step = _look(plan, index, state, _named(plan, state), len(steps), len(seen))
        if not any(step.open):
            count += 1
            yield _ended(plan, [*steps, step], state, "stuck" if step.options else "ending")
            continue
        for i in reversed(range(len(step.open))):  # the first option is pushed last, and so played first
            if step.open[i]:
                after = list(state)
                apply(plan.scenes[index][i], after)
                pending.append((plan.scenes[index][i].target, after, [*steps, _chosen(step, i)]))


def _look(plan: Plan, index: int, state: Sequence[float], named: dict[str, float], turn: int, visited: int) -> Step:
    encounter = plan.world.encounters[index]
    free = tuple([is_open(choice, state) for choice in plan.scenes[index]])
    names = tuple([option.id for option in encounter.options])
    return Step(encounter.id, index, named, names, free, None, turn, visited)


def _chosen(step: Step, choice: int) -> Step:
    return Step(step.encounter, step.index, step.state, step.options, step.open, choice, step.turn, step.visited)


def _ended(plan: Plan, steps: Sequence[Step], state: Sequence[float], outcome: Outcome) -> Play:
    ending = steps[-1].encounter if outcome == "ending" else None
    return Play(tuple(steps), outcome, ending, _named(plan, state))


def _named(plan: Plan, state: Sequence[float]) -> dict[str, float]:
    return {name: _shown(value) for name, value in zip(plan.names, state, strict=False)}


def _shown(value: float) -> float:
    # Nine decimals hide the drift of repeated addition: 0.1 + 0.2 + 0.1 + 0.3 reads 0.7.
    return round(value, 9)
