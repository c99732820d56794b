"""Confidence intervals: of a share, of a change in a share or a mean, and of a mean over runs or over samples.

All hold 95 % unless told otherwise. scipy is imported where it is used: pages without intervals do without its half
second.
"""

import math
from collections.abc import Sequence
from statistics import fmean, stdev

import numpy as np
import numpy.typing as npt

Interval = tuple[float, float]
"""Lower and upper bound."""
Floats = npt.NDArray[np.float64]
_Z = 1.959964  # the 97.5 % quantile of the normal distribution
_RESAMPLES, _BATCH, _SEED = 2000, 100, 0


def share_interval(share: float, n: int, confidence: float = 0.95) -> Interval:
    """Return the Wilson score interval of a share of ``n`` independent samples.

    Unlike Wald's it stays within [0, 1] and keeps its width at shares of 0 and 1.

    Args:
        share: in [0, 1]; ``hits / n`` gives back the very count.
        n: at least 1.
        confidence: that the interval holds the true share.
    """
    from scipy.stats import binomtest

    bounds = binomtest(round(share * n), n).proportion_ci(confidence, method="wilson")
    return float(bounds.low), float(bounds.high)


def share_change_interval(before: Interval, after: Interval, shares: tuple[float, float]) -> Interval:
    """Return Newcombe's interval of ``shares[1] - shares[0]``, shares of independent samples (1998, method 10).

    Args:
        before: the Wilson interval of ``shares[0]``.
        after: that of ``shares[1]``.
        shares: before and after.
    """
    change = shares[1] - shares[0]
    low = change - math.hypot(shares[1] - after[0], before[1] - shares[0])
    high = change + math.hypot(after[1] - shares[1], shares[0] - before[0])
    return low, high


def paired_share_interval(won: int, lost: int, n: int) -> Interval:
    """Return the adjusted Wald interval of ``(won - lost) / n``, the change of a share over the same ``n`` samples.

    Half a count is added to each of the four outcomes (Agresti and Min 2005), so that the interval keeps its width
    where nothing changed: (b - c ± 1.96 sqrt(b + c + 1 - (b - c)² / (n + 2))) / (n + 2).

    Args:
        won: samples that are right after and were wrong before, b.
        lost: the other way round, c.
        n: all samples.
    """
    total, gain, moved = n + 2, won - lost, won + lost + 1
    half = _Z * math.sqrt(moved - gain**2 / total) / total
    return max(gain / total - half, -1.0), min(gain / total + half, 1.0)


def mean_change_interval(before: Interval, after: Interval, change: float) -> Interval:
    """Return the interval of a change between two independent means, from their own (symmetric) intervals."""
    # Half-widths of independent means add in squares.
    half = math.hypot((before[1] - before[0]) / 2, (after[1] - after[0]) / 2)
    return change - half, change + half


def student(values: Sequence[float]) -> Interval | None:
    """Return the interval of the mean of independent values, such as one a seed, by Student's t.

    Returns:
        The interval; None of fewer than two values.
    """
    from scipy import stats

    if len(values) < 2:
        return None
    margin = float(stats.t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return fmean(values) - margin, fmean(values) + margin


def bootstrap(scores: Floats) -> Interval | None:
    """Return the percentile interval of the mean of scores (n,) by resampling them with replacement.

    Returns:
        The interval; None of fewer than two scores.
    """
    from scipy import stats

    if len(scores) < 2:
        return None
    bounds = stats.bootstrap(
        (scores,),
        np.mean,
        n_resamples=_RESAMPLES,
        batch=_BATCH,  # all 2000 resamples at once would take n * 16 kB of memory
        vectorized=True,
        method="percentile",
        random_state=np.random.default_rng(_SEED),  # the same page from the same files
    ).confidence_interval
    return float(bounds.low), float(bounds.high)
