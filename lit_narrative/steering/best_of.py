"""The best of several samples, around any sampler."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean

from torch import nn
from transformers import PreTrainedTokenizerBase

from lit_narrative.lm.sampler import Request, Sampler, SamplingParams
from lit_narrative.seeds import stream_seed
from lit_narrative.text import distinct_share, ngrams
from lit_narrative.views import Rollout

Rank = Callable[[Sequence[Rollout]], Sequence[float | None]]
"""Scores of completions, the higher the better; None: it cannot be scored and is taken last."""


class BestOf:
    """Samples ``samples`` texts in place of each and keeps the best; costs so many times as much.

    The first of them is the one that would have come without. Texts that repeat themselves, by the mean of distinct
    1-, 2- and 3-grams of tokens (Dathathri et al. 2020), are left out unless all do.

    Args:
        sampler: what samples.
        samples: how many, 1 or more.
        rank: their scores.
        min_distinct: least mean of the three shares, 0 (off) to 1.
    """

    def __init__(self, sampler: Sampler, samples: int, rank: Rank, min_distinct: float = 0.0) -> None:
        self.sampler, self.samples, self.rank, self.min_distinct = sampler, samples, rank, min_distinct

    def sample(
        self, lm: nn.Module, tokenizer: PreTrainedTokenizerBase, requests: Sequence[Request], params: SamplingParams
    ) -> list[Rollout]:
        """Complete every request."""
        more = [
            replace(request, seeds=[s for seed in request.seeds for s in self._seeds(seed)]) for request in requests
        ]
        rollouts = self.sampler.sample(lm, tokenizer, more, params)
        keys = order_keys(rollouts, self.rank(rollouts), self.min_distinct)
        starts = range(0, len(rollouts), self.samples)
        best = [max(range(start, start + self.samples), key=lambda place: keys[place]) for start in starts]
        return [rollouts[place] for place in best]

    def _seeds(self, seed: int) -> list[int]:
        return [seed, *(stream_seed(seed, number) for number in range(1, self.samples))]


def order_keys(
    rollouts: Sequence[Rollout], scores: Sequence[float | None], min_distinct: float
) -> list[tuple[bool, float]]:
    """What completions are ordered by, the higher the better: varied enough first, then by score, None last."""
    return [
        (mean_distinct(rollout) >= min_distinct, -math.inf if score is None else score)
        for rollout, score in zip(rollouts, scores, strict=True)
    ]


def mean_distinct(rollout: Rollout) -> float:
    """Mean of the shares of distinct 1-, 2- and 3-grams among a completion's tokens; 1 where there are none."""
    ids = rollout.completion_ids.tolist()
    return fmean(distinct_share(ngrams(ids, n), empty=1.0) for n in (1, 2, 3))
