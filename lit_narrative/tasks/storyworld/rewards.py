"""Verifiers as rewards."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from lit_narrative.tasks.storyworld.similarity import skeleton_digest
from lit_narrative.tasks.storyworld.verifiers.base import VerifierConfig
from lit_narrative.tasks.storyworld.verifiers.score import Mode, Score, score
from lit_narrative.views import Rollout


class Scorer:
    """Scores texts and remembers the latest, since several rewards ask about the same text.

    A copy in another process begins without memories.
    """

    def __init__(self, config: VerifierConfig, mode: Mode = "strict", remember: int = 4096) -> None:
        self.limits = config.limits
        self._settings = (config, mode, remember)
        self._score = lru_cache(maxsize=remember)(lambda text: score(text, mode=mode, config=config))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._settings

    def __call__(self, text: str) -> Score:
        """The score of one text."""
        return self._score(text)


@dataclass(frozen=True)
class ComponentReward:
    """One verifier component as a reward, in 0..1."""

    name: str
    scorer: Scorer

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float]:
        """A completion cut off by the length limit is judged as it stands: text that does not parse earns 0."""
        scores = [self.scorer(rollout.text).components for rollout in rollouts]
        if self.name == "valid_json":  # bare JSON that is no world at all earns nothing
            return [score["valid_json"] * (score["schema"] > 0) for score in scores]
        return [score[self.name] for score in scores]


@dataclass(frozen=True)
class NoveltyReward:
    """1 / how many completions of the batch share the skeleton (the world without names, texts and numbers)."""

    scorer: Scorer
    name: str = "novelty"

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float]:
        """Completions that are no world earn 0."""
        limits = self.scorer.limits
        digests = [skeleton_digest(r.text, limits) if self.scorer(r.text).world is not None else None for r in rollouts]
        counts = Counter(digests)
        return [0.0 if digest is None else 1 / counts[digest] for digest in digests]
