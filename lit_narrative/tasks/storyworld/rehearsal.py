"""Gates in practice: which options are open at some times and closed at others, over quick seeded plays."""

from collections.abc import Iterable
from functools import lru_cache

import numpy as np

from lit_narrative.tasks.storyworld.plan import Choice, Plan, apply, is_open

Place = tuple[int, int]
"""(position of the encounter, position of the option in it)."""


def gated_options(plan: Plan, among: Iterable[int]) -> set[Place]:
    """Options with gates that all read declared variables.

    Args:
        plan: the world.
        among: positions of the encounters looked at.
    """
    declared = len(plan.names)
    return {
        (i, j)
        for i in among
        for j, choice in enumerate(plan.scenes[i])
        if choice.tests and all([test[0] < declared for test in choice.tests])
    }


def live_gates(
    plan: Plan, candidates: set[Place], seed: int, runs: int = 32, max_steps: int = 20, budget: int = 20_000
) -> set[Place]:
    """Which of ``candidates`` were met both open and closed.

    A gate counts at the moments in which its option is offered: one that is always open by the time the reader comes
    to it, or never, hides nothing.

    Args:
        plan: the world.
        candidates: options to look at.
        seed: the plays are a pure function of the world and this.
        runs: number of plays, each choosing uniformly among open options; fewer where all is known earlier.
        max_steps: bound on the steps of a play.
        budget: bound on the options looked at in all plays together, so that the cost of any world is bounded.
    """
    if not candidates:
        return set()
    opened: set[Place] = set()
    closed: set[Place] = set()
    live: set[Place] = set()
    chance = iter(_draws(seed, runs * max_steps))
    for _ in range(runs):
        index, state = 0, list(plan.start)
        for _ in range(max_steps):
            scene = plan.scenes[index]
            free = _look(index, scene, state, opened, closed)
            budget -= len(scene)
            if not free:
                break
            choice = free[int(next(chance) * len(free))]
            apply(choice, state)
            index = choice.target
            if index < 0:
                break
        live = opened & closed & candidates
        if len(live) == len(candidates) or budget < 0:
            break
    return live


def _look(
    index: int, scene: tuple[Choice, ...], state: list[float], opened: set[Place], closed: set[Place]
) -> list[Choice]:
    """The open options of an encounter; notes of each gated one whether it was open."""
    free = []
    for j, choice in enumerate(scene):
        if not choice.tests:
            free.append(choice)
        elif is_open(choice, state):
            opened.add((index, j))
            free.append(choice)
        else:
            closed.add((index, j))
    return free


@lru_cache(maxsize=8)
def _draws(seed: int, count: int) -> tuple[float, ...]:
    return tuple(np.random.default_rng(seed).random(count).tolist())
