"""Intervals over documents: positions of one document resemble each other, so whole documents are resampled.

Notation: n rows, D documents, R resamples.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lit_narrative.report.intervals import Interval

Floats = npt.NDArray[np.floating[Any]]
_RESAMPLES, _SEED = 1000, 0


class Resamples:
    """Bootstrap resamples of documents, the same ones for everything that is measured on one set.

    Since all figures of a set share the resamples, differences of figures are differences of paired ones.

    Args:
        documents: (n,) the document of each row.
        resamples: R.
        seed: of the draw.
    """

    def __init__(self, documents: Sequence[str], resamples: int = _RESAMPLES, seed: int = _SEED) -> None:
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
