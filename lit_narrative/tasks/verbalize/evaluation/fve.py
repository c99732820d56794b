"""Fraction of variance explained (FVE) by reconstructions of activations, and its floor.

With g the targets and p the predictions, both brought to one norm where the critic gives directions only, and m the
mean of g, **not** brought to that norm: FVE = 1 - mean |p - g|² / mean |g - m|². To give m that norm as well would make
the denominator, and so the figure, larger. For a critic of directions 0 is not what an answer without knowledge
scores: the best constant direction scores less, see `constant_floor`.

Notation: n rows, a width of an activation.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lit_narrative.errors import UserError
from lit_narrative.report.intervals import Floats, Resamples, figure

_EPSILON = 1e-12


def normalise(vectors: Floats, scale: float | None) -> Floats:
    """Vectors (n, a) at the norm ``scale``, in float64; None: as they are. Zeros stay zeros."""
    wide = np.asarray(vectors, dtype=np.float64)
    if scale is None:
        return wide
    return wide * (scale / np.sqrt((wide**2).sum(-1, keepdims=True) + _EPSILON))


class Fidelity:
    """How well predictions meet the targets of one evaluation set.

    Args:
        targets: (n, a) raw activations.
        documents: (n,) the document of each.
        scale: norm at which vectors are compared; None: raw.

    Raises:
        UserError: a target is not finite, or all targets are the same.
    """

    def __init__(self, targets: Floats, documents: Sequence[str], scale: float | None = 1.0) -> None:
        if not np.isfinite(targets).all():
            raise UserError("a target activation holds NaN or infinity; leave its row out of the data")
        self.scale, self.targets = scale, normalise(targets, scale)
        self.resamples = Resamples(documents)
        self.mean = self.targets.mean(0)
        # About the mean of the set in every resample: about its own, one of few documents varies less than they do.
        self._spread = ((self.targets - self.mean) ** 2).sum(-1)
        self.variance = float(self._spread.mean())
        if self.variance < _EPSILON:
            raise UserError(
                f"all {len(targets)} target activations are the same, so there is no variance to explain; choose "
                "another layer, or other positions"
            )

    def errors(self, predicted: Floats) -> Floats:
        """(n,) squared distance of each prediction (n, a) to its target.

        A row of NaN stands for no answer, and counts as a vector at a right angle to the target: the error that the
        reward's floor stands for. A row left out instead would raise the mean.
        """
        distances = ((normalise(predicted, self.scale) - self.targets) ** 2).sum(-1)
        return np.where(np.isnan(distances), 2 * (self.targets**2).sum(-1), distances)

    def row_values(self, errors: Floats) -> Floats:
        """(n,) FVE of each row by the variance of the set; their mean is the FVE."""
        return 1 - errors / self.variance

    def scores(self, name: str, predicted: Floats) -> dict[str, Any]:
        """FVE of predictions (n, a) as ``name`` with its interval, and the median over rows as ``name_median``.

        The median is less moved by the few rows that went wholly wrong.
        """
        errors = self.errors(predicted)
        values = self.row_values(errors)
        drawn = 1 - self.resamples.sums(errors) / self.resamples.sums(self._spread)
        return {
            **figure(name, float(values.mean()), self.resamples.interval(drawn)),
            f"{name}_median": float(np.median(values)),
        }

    def constant_floor(self) -> dict[str, Any]:
        """FVE of the best constant answer, ``floor_constant``: below it, an explanation is worse than none.

        Of raw vectors that is the mean, and the FVE 0; of directions the mean brought to their norm.
        """
        constant = np.broadcast_to(self.mean, self.targets.shape)
        floor = self.scores("floor_constant", constant)
        return {key: value for key, value in floor.items() if not key.endswith("_median")}

    def normalised(self, vectors: Floats) -> Floats:
        """Vectors (m, a) as they are compared."""
        return normalise(vectors, self.scale)

    @staticmethod
    def distances(some: Floats, others: Floats) -> Floats:
        """(n, m) squared distances between vectors (n, a) and others (m, a), as they stand."""
        return (some**2).sum(-1)[:, None] - 2 * some @ others.T + (others**2).sum(-1)
