"""FIXME."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev

import numpy as np
import numpy.typing as npt

Interval = tuple[float, float]


def share_interval(share: float, n: int, confidence: float = 0.95) -> Interval:
    """Return Wilson's interval of a share of ``n`` independent samples."""
    from scipy.stats import binomtest

    bounds = binomtest(round(share * n), n).proportion_ci(confidence, method="wilson")
    return float(bounds.low), float(bounds.high)


def share_change_interval(before: Interval, after: Interval, shares: tuple[float, float]) -> Interval:
    """Return Newcombe's interval of ``shares[1] - shares[0]`` from the Wilson intervals of the two."""
    change = shares[1] - shares[0]
    low = change - math.hypot(shares[1] - after[0], before[1] - shares[0])
    high = change + math.hypot(after[1] - shares[1], shares[0] - before[0])
    return low, high


Floats = npt.NDArray[np.float64]
_RESAMPLES, _BATCH, _SEED = 2000, 100, 0


def student(values: Sequence[float]) -> Interval | None:
    """The 95 % interval of the mean of independent values by Student's t; None of fewer than two."""
    from scipy import stats

    if len(values) < 2:
        return None
    margin = float(stats.t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return fmean(values) - margin, fmean(values) + margin


def bootstrap(scores: Floats) -> Interval | None:
    """The 95 % percentile interval of the mean of scores (n,) that are drawn anew; None of fewer than two."""
    from scipy import stats

    if len(scores) < 2:
        return None
    found = stats.bootstrap(
        (scores,),
        np.mean,
        n_resamples=_RESAMPLES,
        batch=_BATCH,
        vectorized=True,
        method="percentile",
        random_state=np.random.default_rng(_SEED),
    ).confidence_interval
    return float(found.low), float(found.high)
