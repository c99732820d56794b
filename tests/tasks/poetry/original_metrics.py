"""Measures of verse as the original system computes them, to hold its figures; for comparison only."""

import math
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np

from lit_narrative.text import distinct_share, ngrams


class LogitStep(NamedTuple):
    """One step on next-token logits.

    Attributes:
        loss: -log of the bag's probability before it.
        gradient: (V,) of the loss by the logits.
        probabilities: (V,) to sample from, after the step, temperature and top-k.
        mass_before: probability of the bag with temperature and without top-k, before the step.
        mass_after: the same after it.
    """

    loss: float
    gradient: np.ndarray
    probabilities: np.ndarray
    mass_before: float
    mass_after: float


def original_distinct_n(texts: Iterable[str], n: int) -> float:
    """Distinct n-grams over all n-grams, of words as white space parts them: case and punctuation count."""
    return distinct_share(gram for text in texts for gram in ngrams(text.split(), n))


def original_perplexity(nlls: Sequence[Sequence[float] | None]) -> float:
    """Exponential of the mean over texts of each one's mean: a short text weighs as much as a long one.

    Args:
        nlls: of the tokens of each text but its first, nats; None: the text has no tokens, and is left out.

    Returns:
        Infinity where no text is left; NaN as soon as one text has a single token, of which nothing is scored.
    """
    means = [fmean(text) if len(text) else math.nan for text in nlls if text is not None]
    return math.exp(fmean(means)) if means else math.inf


def original_logit_step(
    logits: np.ndarray, bag: Sequence[int], step: float, temperature: float = 0.9, top_k: int = 50
) -> LogitStep:
    """What the original calls PPLM: one gradient step on the logits alone, towards the bag's probability.

    With S the probability of the bag, the loss is -log(S + 1e-10); its gradient is p outside the bag and p (1 - 1/S)
    inside. A step of 0.02 can hardly change a choice.

    Args:
        logits: (V,) of the next token.
        bag: token ids.
        step: size.
        temperature: of sampling, above 0.
        top_k: likeliest tokens to sample from.
    """
    inside = np.zeros(len(logits), dtype=bool)
    inside[list(bag)] = True
    before = _softmax(np.asarray(logits, dtype=np.float64))
    mass = float(before[inside].sum())
    gradient = before * mass / (mass + 1e-10) - inside * before / (mass + 1e-10)
    moved = logits - step * gradient
    final = _softmax(moved / temperature)
    final[np.argsort(-final, kind="stable")[top_k:]] = 0
    masses = (float(_softmax(z / temperature)[inside].sum()) for z in (logits, moved))
    return LogitStep(-math.log(mass + 1e-10), gradient, final / final.sum(), *masses)


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponents = np.exp(logits - logits.max())
    return exponents / exponents.sum()
