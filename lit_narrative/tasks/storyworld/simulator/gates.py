"""Gates in practice: which of them make a difference, over quick seeded plays."""

from collections.abc import Iterable
from functools import lru_cache

import numpy as np

from lit_narrative.tasks.storyworld.simulator.plan import Choice, Plan, apply, is_open

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
    plan: Plan, candidates: set[Place], seed: int, runs: int = 32, max_steps: int = 20, budget: int = 200_000
) -> set[Place]:
    """Which of ``candidates`` have gates that make a difference.

    Over the states that the plays meet, wherever they are met, the gates hold in some and fail in others; and the
    option was not found shut every time that it was offered.

    Args:
        plan: the world.
        candidates: options to look at.
        seed: the plays are a pure function of the world and this.
        runs: number of plays, each choosing uniformly among open options; fewer where all is known earlier.
        max_steps: bound on the steps of a play.
        budget: bound on the gates tested in all plays together, so that the cost of any world is bounded.
    """
    if not candidates:
        return set()
    notes = _Notes(plan, candidates)
    chance = iter(_draws(seed, runs * max_steps))
    for _ in range(runs):
        index, state = 0, list(plan.start)
        for _ in range(max_steps):
            scene = plan.scenes[index]
            free = notes.look(index, scene, state)
            budget -= len(scene) + len(notes.undecided)
            if not free or budget < 0:
                break
            choice = free[int(next(chance) * len(free))]
            apply(choice, state)
            index = choice.target
            if index < 0:
                break
        if budget < 0 or notes.complete():
            break
    return notes.varied - (notes.shut - notes.opened)


class _Notes:
    """What the plays have shown of the candidates so far."""

    def __init__(self, plan: Plan, candidates: set[Place]) -> None:
        self.undecided = [(place, plan.scenes[place[0]][place[1]]) for place in sorted(candidates)]
        self.first: dict[Place, bool] = {}
        self.varied: set[Place] = set()
        self.opened: set[Place] = set()
        self.shut: set[Place] = set()
        self.met: set[tuple[float, ...]] = set()

    def look(self, index: int, scene: tuple[Choice, ...], state: list[float]) -> list[Choice]:
        """The open options of an encounter; notes which gates hold in this state, here and elsewhere."""
        key = tuple(state)
        if key not in self.met:
            self.met.add(key)
            self._test_all(state)
        free = []
        for j, choice in enumerate(scene):
            if not choice.tests:
                free.append(choice)
            elif is_open(choice, state):
                self.opened.add((index, j))
                free.append(choice)
            else:
                self.shut.add((index, j))
        return free

    def complete(self) -> bool:
        """Whether further plays could change nothing: every gate has varied, and none is shut so far."""
        return not self.undecided and self.varied <= self.opened

    def _test_all(self, state: list[float]) -> None:
        left = []
        for place, choice in self.undecided:
            holds = is_open(choice, state)
            if self.first.setdefault(place, holds) is holds:
                left.append((place, choice))
            else:
                self.varied.add(place)
        self.undecided = left


@lru_cache(maxsize=8)
def _draws(seed: int, count: int) -> tuple[float, ...]:
    return tuple(np.random.default_rng(seed).random(count).tolist())
