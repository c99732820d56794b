"""How well similarities tell pairs apart, with intervals by resampling the documents that the pairs are made of.

Notation: n pairs, g distinct similarities, R resamples.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lit_narrative.report.intervals import figure

Floats = npt.NDArray[np.float64]
RESAMPLES = 500


def auroc(found: Floats, alike: npt.NDArray[np.bool_], weights: Floats) -> Floats:
    """(R,) probability that an alike pair is found more similar than another one, ties half; NaN if a kind lacks.

    Args:
        found: (n,) similarities.
        alike: (n,) whether the pair is.
        weights: (R, n) how often each pair counts.
    """
    if not len(found):
        return np.full(len(weights), np.nan)
    right, wrong = _by_value(found, alike, weights)
    below = wrong.cumsum(1) - wrong
    with np.errstate(invalid="ignore"):
        return (right * (below + wrong / 2)).sum(1) / (right.sum(1) * wrong.sum(1))


def equal_error_rate(found: Floats, alike: npt.NDArray[np.bool_], weights: Floats) -> Floats:
    """(R,) error rate at the threshold where pairs of both kinds are mistaken most equally; arguments as `auroc`."""
    if not len(found):
        return np.full(len(weights), np.nan)
    right, wrong = _by_value(found, alike, weights)
    with np.errstate(invalid="ignore"):
        # A pair counts as alike from the threshold on: the values below it are missed, those from it on let in.
        missed = (right.cumsum(1) - right) / right.sum(1, keepdims=True)
        let_in = 1 - (wrong.cumsum(1) - wrong) / wrong.sum(1, keepdims=True)
    nearest = np.abs(missed - let_in).argmin(1)
    rows = np.arange(len(weights))
    return (missed[rows, nearest] + let_in[rows, nearest]) / 2


def rank_correlation(found: Floats, scores: Floats, weights: Floats) -> Floats:
    """(R,) Spearman's correlation of similarities (n,) and scores (n,); NaN where one of them does not vary.

    A resample is correlated by the ranks in the whole set, which are those that it is a sample of.
    """
    from scipy.stats import rankdata

    first, second = rankdata(found), rankdata(scores)
    total = weights.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (weights @ first) / total, (weights @ second) / total
        centred = first - means[0][:, None], second - means[1][:, None]
        covariance = (weights * centred[0] * centred[1]).sum(1)
        return covariance / np.sqrt((weights * centred[0] ** 2).sum(1) * (weights * centred[1] ** 2).sum(1))


def _by_value(found: Floats, alike: npt.NDArray[np.bool_], weights: Floats) -> tuple[Floats, Floats]:
    """(R, g) weights of the alike pairs and of the others at each similarity, from the lowest on."""
    order = np.argsort(found, kind="stable")
    starts = np.flatnonzero(np.diff(found[order], prepend=-np.inf))
    sums = (np.add.reduceat(weights[:, order] * kind[order], starts, axis=1) for kind in (alike, ~alike))
    right, wrong = sums
    return right, wrong


class PairResamples:
    """Bootstrap resamples of documents: a pair counts as often as both of its documents are drawn together.

    Everything that is measured on one set shares the resamples, so that differences are of paired figures.

    Args:
        first: (n,) the document of the first text of each pair.
        second: (n,) that of the second.
        resamples: R.
        seed: of the draw.
    """

    def __init__(self, first: Sequence[str], second: Sequence[str], resamples: int = RESAMPLES, seed: int = 0) -> None:
        names, rows = np.unique([*first, *second], return_inverse=True)
        self.count = len(names)
        draws = np.random.default_rng(seed).multinomial(self.count, [1 / self.count] * self.count, size=resamples)
        pairs = draws[:, rows[: len(first)]] * draws[:, rows[len(first) :]]
        # The first row is the whole set.
        self.weights = np.concatenate([np.ones((1, len(first))), pairs.astype(np.float64)])

    def figure(self, name: str, values: Floats) -> dict[str, Any]:
        """A figure and its interval (95 %) as they stand in a record.

        Args:
            name: of the figure.
            values: (1 + R,) of the whole set and of the resamples; NaN where it is not defined.
        """
        known = values[1:][np.isfinite(values[1:])]
        if not np.isfinite(values[0]):
            return figure(name, None, None)
        low_high = np.quantile(known, (0.025, 0.975)).tolist() if self.count > 1 and len(known) else None
        return figure(name, float(values[0]), None if low_high is None else (low_high[0], low_high[1]))
