"""Rewards of the tests' tasks. Worker processes import this module, so it imports nothing heavy."""

import time
from collections.abc import Sequence
from typing import Any

from lit_narrative.views import Rollout

VOCABULARY = 300


class LowTokens:
    """Share of a completion's tokens in the lower half of the vocabulary: half of them at random, all once learned."""

    name = "low"

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float | None]:
        return [float((rollout.completion_ids < VOCABULARY // 2).float().mean()) for rollout in rollouts]


class Moody:
    """A reward that gives back whatever it is told to, call after call."""

    name = "moody"

    def __init__(self, *moods: Any) -> None:
        self.moods, self.calls = moods or (1.0,), 0

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float | None]:
        mood = self.moods[self.calls % len(self.moods)]
        self.calls += 1
        if isinstance(mood, Exception):
            raise mood
        if mood == "hang":
            time.sleep(60)
        if isinstance(mood, int):
            return [0.5] * mood
        return [mood, *(float(n) for n in range(1, len(rollouts)))]
