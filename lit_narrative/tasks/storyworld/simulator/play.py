"""Plays of a world: one seeded play, many, or every play there is.

A play starts at the first encounter. At each step one of the open options is chosen, its effects are applied in
order and clamped, and the next encounter follows. Nothing here raises on any world, and every play is bounded.

Plain worlds are played here; what needs an engine is played by ``engine.py``, whose plays of plain worlds are the same.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from lit_narrative.tasks.storyworld.simulator.engine import Engine
from lit_narrative.tasks.storyworld.simulator.engine_plays import engine_paths, engine_play
from lit_narrative.tasks.storyworld.simulator.plan import DANGLING, Plan, apply, is_open, make_plan
from lit_narrative.tasks.storyworld.simulator.records import (
    MAX_STEPS,
    OUTCOMES,
    Outcome,
    Play,
    Step,
    chosen,
    ended,
    named,
    renamed,
)
from lit_narrative.tasks.storyworld.world import Encounter, World, is_plain

__all__ = ["MAX_STEPS", "OUTCOMES", "Chooser", "Outcome", "Play", "Step", "all_paths", "play", "plays", "uniform"]

Game = World | Plan | Engine
"""A world, or one prepared for play, where the same is played often."""
Chooser = Callable[[np.random.Generator, Encounter, dict[str, float], tuple[int, ...]], int]
"""``choose(rng, encounter, state, open_options)`` returns one of ``open_options`` (positions; never empty)."""


def uniform(
    rng: np.random.Generator, encounter: Encounter, state: dict[str, float], open_options: tuple[int, ...]
) -> int:
    """Choose each open option with equal probability."""
    return open_options[int(rng.random() * len(open_options))]


def prepared(game: Game) -> Plan | Engine:
    """A world prepared for play: a plan of a plain one, else an engine."""
    if isinstance(game, World):
        return make_plan(game) if is_plain(game) else Engine(game)
    return game


def play(game: Game, rng: np.random.Generator, choose: Chooser = uniform, max_steps: int = MAX_STEPS) -> Play:
    """Play once.

    Args:
        game: a world; a plan or an engine where the same world is played often.
        rng: the only source of chance.
        choose: the policy.
        max_steps: bound on the number of steps, at least 1.
    """
    ready = prepared(game)
    if isinstance(ready, Engine):
        return engine_play(ready, lambda at: choose(rng, at.encounter, at.state, at.open_options), max_steps)
    return _plan_play(ready, rng, choose, max_steps)


def _plan_play(plan: Plan, rng: np.random.Generator, choose: Chooser, max_steps: int) -> Play:
    steps: list[Step] = []
    state = list(plan.start)
    values = named(plan.names, state)
    seen: set[int] = set()
    index = 0 if plan.scenes else DANGLING
    while index >= 0 and len(steps) < max_steps:
        seen.add(index)
        step = _look(plan, index, state, values, len(steps), len(seen))
        open_options = tuple([i for i, free in enumerate(step.open) if free])
        if not open_options:
            steps.append(step)
            return ended(steps, "stuck" if step.options else "ending", values)
        choice = choose(rng, plan.world.encounters[index], step.state, open_options)
        taken = plan.scenes[index][choice]
        steps.append(chosen(step, choice, taken.reaction))
        apply(taken, state)
        values = renamed(values, plan.names, {change[0] for change in taken.changes}, state)
        index = taken.target
    return ended(steps, OUTCOMES.get(index, "timeout"), values)


def plays(
    game: Game,
    runs: int,
    rng: np.random.Generator,
    choose: Chooser = uniform,
    max_steps: int = MAX_STEPS,
) -> Iterator[Play]:
    """Play ``runs`` times, one after the other, drawing from ``rng``."""
    ready = prepared(game)
    for _ in range(runs):
        yield play(ready, rng, choose, max_steps)


def all_paths(game: World | Engine, limit: int = 10_000, max_steps: int = MAX_STEPS) -> list[Play]:
    """Every play that open options allow, depth first in the order of the file.

    Args:
        game: a world, or an engine where its settings are not the usual ones.
        limit: largest number of plays returned; the rest is left out.
        max_steps: bound on the steps of each play (``timeout`` beyond it).
    """
    return list(engine_paths(game if isinstance(game, Engine) else Engine(game), limit, max_steps))


def _look(plan: Plan, index: int, state: Sequence[float], values: dict[str, float], turn: int, visited: int) -> Step:
    encounter = plan.world.encounters[index]
    free = tuple([is_open(choice, state) for choice in plan.scenes[index]])
    names = tuple([option.id for option in encounter.options])
    return Step(encounter.id, index, values, names, free, None, turn, visited, None)
