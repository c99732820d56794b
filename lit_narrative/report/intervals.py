"""Confidence intervals: of shares, means and their changes, over samples, over documents and over seeds.

All hold 95 % unless told otherwise. scipy is imported where it is used: pages without intervals do without its half
second.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

import numpy as np
import numpy.typing as npt

Interval = tuple[float, float]
"""Lower and upper bound."""
Value = tuple[float, Interval | None]
"""A figure, and its 95 % interval where it has one."""
Floats = npt.NDArray[np.floating[Any]]
_Z = 1.959964  # the 97.5 % quantile of the normal distribution
_RESAMPLES, _BATCH, _SEED = 2000, 100, 0
_DRAWS = 1000  # of documents


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


class Resamples:
    """Bootstrap resamples of documents, the same ones for everything that is measured on one set.

    Rows of one document resemble each other, so whole documents are resampled. Since all figures of a set share the
    resamples, differences of figures are differences of paired ones. Notation: n rows, R resamples.

    Args:
        documents: (n,) the document of each row.
        resamples: R.
        seed: of the draw.
    """

    def __init__(self, documents: Sequence[str], resamples: int = _DRAWS, seed: int = _SEED) -> None:
        names, self._rows = np.unique(np.asarray(documents, dtype=str), return_inverse=True)
        self.count = len(names)
        even = np.full(self.count, 1 / max(self.count, 1))
        draws = np.random.default_rng(seed).multinomial(self.count, even, size=resamples)
        self._weights = draws.astype(np.float32)  # counts: float32 holds them exactly, in half the memory

    def sums(self, values: Floats) -> Floats:
        """(R, …) sums of the rows' values (n, …) in each resample."""
        totals = np.zeros((self.count, *values.shape[1:]))
        np.add.at(totals, self._rows, values)
        return np.tensordot(self._weights, totals, 1)

    def interval(self, estimates: Floats) -> Interval | None:
        """The percentile interval (95 %) of a figure's values in the resamples (R,).

        Returns:
            The interval; None of fewer than two documents, or where a figure is not defined in any resample.
        """
        known = estimates[np.isfinite(estimates)]
        if self.count < 2 or not len(known):
            return None
        low, high = np.quantile(known, (0.025, 0.975))
        return float(low), float(high)

    def ratio(self, name: str, above: Floats, below: Floats) -> dict[str, Any]:
        """The sum of one quantity over that of another as ``name``, with its interval as ``name_ci``.

        Args:
            name: of the figure.
            above: (n,) numerator of each row.
            below: (n,) denominator of each row.
        """
        # A resample may have nothing to divide by, such as no claims at all: its figure is left out.
        with np.errstate(divide="ignore", invalid="ignore"):
            drawn = self.sums(above) / self.sums(below)
        total = float(below.sum())
        return figure(name, float(above.sum()) / total if total else None, self.interval(drawn))

    def mean(self, name: str, values: Floats) -> dict[str, Any]:
        """The mean over rows as ``name``, with its interval as ``name_ci``."""
        return self.ratio(name, values, np.ones(len(values)))


def figure(name: str, value: float | None, interval: Interval | None) -> dict[str, Any]:
    """A figure and its interval as they stand in a record; a figure that is not defined is None."""
    return {name: value, f"{name}_ci": None if interval is None or value is None else list(interval)}


def figure_names(record: Mapping[str, Any]) -> list[str]:
    """Names of the figures in a record that have an interval."""
    return [name.removesuffix("_ci") for name in record if name.endswith("_ci")]


# --- figures of several seeds -----------------------------------------------------------------------------------------


def pooled(seeds: Sequence[Mapping[str, Value]], name: str) -> Value | None:
    """The mean of a figure over the seeds that have it, and its interval over them; of one seed that of the seed."""
    values = [seed[name] for seed in seeds if name in seed]
    if not values:
        return None
    return values[0] if len(values) == 1 else (fmean(value for value, _ in values), student([v for v, _ in values]))


def pooled_record(seeds: Sequence[Mapping[str, Value]]) -> dict[str, Any]:
    """The means of all figures over seeds as they stand in a record, with intervals by Student's t."""
    names = dict.fromkeys(name for seed in seeds for name in seed)
    made: dict[str, Any] = {"seeds": len(seeds)}
    for name in names:
        values = [seed[name][0] for seed in seeds if name in seed]
        made |= figure(name, fmean(values), student(values))
    return made


def seed_record(figures: Mapping[str, Value]) -> dict[str, Any]:
    """The figures of one seed as they stand in a record."""
    made: dict[str, Any] = {}
    for name, (value, interval) in figures.items():
        made |= figure(name, value, interval)
    return made
