"""Gate coverage: which gates make a difference over quick seeded plays.

The verifiers ask this of every text that a policy writes, so these plays keep no steps; ``play.py`` keeps them.
"""

from collections.abc import Iterable
from functools import lru_cache

import numpy as np

from lit_narrative.tasks.storyworld.simulator.plan import Choice, Plan, affordable, apply, is_open

OptionPosition = tuple[int, int]
"""(position of the encounter, position of the option in it)."""


def gated_options(plan: Plan, encounters: Iterable[int]) -> set[OptionPosition]:
    """Options with gates that all read declared variables.

    Args:
        plan: the world.
        encounters: positions of those looked at.
    """
    declared = len(plan.names)
    return {
        (i, j)
        for i in encounters
        for j, choice in enumerate(plan.scenes[i])
        # An undeclared variable has the index behind the last declared one, and always reads 0.
        if choice.tests and all([test[0] < declared for test in choice.tests])
    }


def live_gates(
    plan: Plan, candidates: set[OptionPosition], seed: int, runs: int = 32, max_steps: int = 20, budget: int = 200_000
) -> set[OptionPosition]:
    """Which of ``candidates`` have gates that make a difference.

    Two things are asked. Over all states that the plays meet, whichever the encounter, the gates hold in some and fail
    in others. And the option was open at least once among the times that it was offered, if it was offered at all.

    Args:
        plan: the world.
        candidates: options to look at.
        seed: the plays are a pure function of the world and this.
        runs: number of plays, each choosing uniformly among open options; fewer where all is settled earlier, and of
            a world with thousands of parts (``plan.affordable``).
        max_steps: bound on the steps of a play.
        budget: bound on the gates tested in all plays together, so that the cost of any world is bounded.
    """
    if not candidates:
        return set()
    coverage = _GateCoverage(plan, candidates)
    draws = iter(_uniform_draws(seed, runs * max_steps))
    for _ in range(affordable(plan, runs, max_steps)):
        index, state = 0, list(plan.start)
        for _ in range(max_steps):
            scene = plan.scenes[index]
            free = coverage.visit(index, scene, state)
            # Two loops ran over gates: the options of this scene, and every gate that has not varied yet.
            budget -= len(scene) + len(coverage.constant)
            if not free or budget < 0:
                break
            choice = free[int(next(draws) * len(free))]
            apply(choice, state)
            index = choice.target
            if index < 0:
                break
        if budget < 0 or coverage.is_settled():
            break
    return coverage.varied - (coverage.shut - coverage.opened)


class _GateCoverage:
    """What the plays have shown of the candidates so far.

    Attributes:
        constant: candidates whose gates gave the same result in every state so far.
        varied: the others.
        opened: options that were open at least once when offered.
        shut: options that were closed at least once when offered.
    """

    def __init__(self, plan: Plan, candidates: set[OptionPosition]) -> None:
        self.constant = [((i, j), plan.scenes[i][j]) for i, j in sorted(candidates)]
        self.first: dict[OptionPosition, bool] = {}
        self.varied: set[OptionPosition] = set()
        self.opened: set[OptionPosition] = set()
        self.shut: set[OptionPosition] = set()
        self.seen_states: set[tuple[float, ...]] = set()

    def visit(self, index: int, scene: tuple[Choice, ...], state: list[float]) -> list[Choice]:
        """The open options of an encounter; records which gates hold in this state, here and elsewhere."""
        key = tuple(state)
        if key not in self.seen_states:  # a state that comes back shows nothing new
            self.seen_states.add(key)
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

    def is_settled(self) -> bool:
        """Whether further plays could change nothing: every gate has varied, and each was open once."""
        return not self.constant and self.varied <= self.opened

    def _test_all(self, state: list[float]) -> None:
        constant = []
        for position, choice in self.constant:
            holds = is_open(choice, state)
            if self.first.setdefault(position, holds) is holds:
                constant.append((position, choice))
            else:
                self.varied.add(position)
        self.constant = constant


# Cached: drawing costs more than a short play, and every text of a run is played with the same seed.
@lru_cache(maxsize=8)
def _uniform_draws(seed: int, count: int) -> tuple[float, ...]:
    return tuple(np.random.default_rng(seed).random(count).tolist())
