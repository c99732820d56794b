"""Best of n: a wrapper around any sampler that keeps the best of several samples."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from statistics import fmean

from torch import nn
from transformers import PreTrainedTokenizerBase

from lit_narrative.lm.sampler import Request, Sampler, SamplingParams
from lit_narrative.rl.rewards.base import Answer, Reward, ask_once, known_scores, read_score
from lit_narrative.seeds import stream_seed
from lit_narrative.text import distinct_share, ngrams
from lit_narrative.views import Rollout

Rank = Callable[[Sequence[Rollout]], Sequence[Answer]]
"""Scores of completions, the higher the better; one that has none, or NaN, ranks last."""


class BestOf:
    """Samples ``samples`` completions for each that is asked for, and keeps the best; the cost grows as many times.

    The first of them is the one that the sampler alone would give. Completions that repeat themselves, by the mean of
    distinct 1-, 2- and 3-grams of tokens (Dathathri et al. 2020), are left out unless all do.

    Args:
        sampler: the wrapped sampler.
        samples: n, 1 or more.
        rank: scores completions: a reward, or a function.
        min_distinct: smallest mean of the three shares, 0 (off) to 1.
    """

    def __init__(self, sampler: Sampler, samples: int, rank: Reward | Rank, min_distinct: float = 0.0) -> None:
        self.sampler, self.samples, self.min_distinct = sampler, samples, min_distinct
        self.rank: Rank = partial(ask_once, rank.name, rank) if isinstance(rank, Reward) else rank

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
        # `max` keeps the first of equals: the sample that one draw alone would have given.
        best = [max(range(start, start + self.samples), key=keys.__getitem__) for start in starts]
        return [rollouts[index] for index in best]

    def _seeds(self, seed: int) -> list[int]:
        # The request's seed first: with the same seeds, best of n is never worse than the sampler alone.
        return [seed, *(stream_seed(seed, number) for number in range(1, self.samples))]


def order_keys(rollouts: Sequence[Rollout], scores: Sequence[Answer], min_distinct: float) -> list[tuple[bool, float]]:
    """Sort keys of completions, the higher the better: first whether varied enough, then the score, no score lowest."""
    # NaN compares false with everything, so that the first sample would stay the best.
    known = known_scores([read_score(score) for score in scores])
    # Tuples compare element by element: any varied text ranks above any repetitive one, whatever their scores.
    return [
        (mean_distinct(rollout) >= min_distinct, -math.inf if score is None else score)
        for rollout, score in zip(rollouts, known, strict=True)
    ]


def mean_distinct(rollout: Rollout) -> float:
    """Mean of the shares of distinct 1-, 2- and 3-grams among a completion's tokens; 1 where there are none."""
    ids = rollout.last_ids.tolist()
    return fmean(distinct_share(ngrams(ids, n), empty=1.0) for n in (1, 2, 3))
