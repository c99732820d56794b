"""Penalties on the sampled tokens alone, for any task: for length, and for repetition."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lit_narrative.errors import UserError
from lit_narrative.text import distinct_share, ngrams
from lit_narrative.views import Rollout


@dataclass(frozen=True)
class SoftOverlong:
    """A growing penalty as the length limit comes near (DAPO, Yu et al. 2025, eq. 13), in -1..0.

    0 up to max_completion_length - soft_punish_cache tokens, from there falling in a straight line to -1 at
    max_completion_length, and -1 beyond.

    Args:
        max_completion_length: the limit, tokens; usually ``model.sampling.max_new_tokens``.
        soft_punish_cache: length of the slope, tokens, in 0..max_completion_length.
        name: its name in configurations and logs.

    Raises:
        UserError: the slope is not within the limit.
    """

    max_completion_length: int
    soft_punish_cache: int
    name: str = "soft_overlong"

    def __post_init__(self) -> None:
        if not 0 <= self.soft_punish_cache <= self.max_completion_length:
            raise UserError(
                f"soft_punish_cache={self.soft_punish_cache} must be in 0..max_completion_length="
                f"{self.max_completion_length}"
            )

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float]:
        """Penalties, in order."""
        return [self.penalty(len(rollout.last_ids)) for rollout in rollouts]

    def penalty(self, length: int) -> float:
        """Penalty of a completion of ``length`` tokens."""
        if length > self.max_completion_length:
            return -1.0
        # With a slope of 0 tokens `over` is never positive here, so nothing is divided by 0.
        over = length - (self.max_completion_length - self.soft_punish_cache)
        return -over / self.soft_punish_cache if over > 0 else 0.0


@dataclass(frozen=True)
class Repetition:
    """A penalty for token n-grams that come again (Yeo et al. 2025, appendix C.2), in max_penalty..0.

    max_penalty x (1 - distinct / all n-grams); 0 for a completion shorter than n tokens.

    Args:
        ngram_size: n, tokens, at least 1.
        max_penalty: the limit for endless repetition, not positive.
        name: its name in configurations and logs.

    Raises:
        UserError: a value is out of range.
    """

    ngram_size: int = 3
    max_penalty: float = -1.0
    name: str = "repetition"

    def __post_init__(self) -> None:
        if self.ngram_size < 1:
            raise UserError(f"ngram_size={self.ngram_size} must be at least 1")
        if self.max_penalty > 0:
            raise UserError(f"max_penalty={self.max_penalty} must not be positive")

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float]:
        """Penalties, in order."""
        return [self.penalty(rollout.last_ids) for rollout in rollouts]

    def penalty(self, ids: torch.Tensor) -> float:
        """Penalty of one completion, (length,) token ids."""
        # Too short for a single n-gram is free of repetition, hence a share of 1.
        return self.max_penalty * (1 - distinct_share(ngrams(ids.tolist(), self.ngram_size), empty=1.0))


repetition = Repetition()
