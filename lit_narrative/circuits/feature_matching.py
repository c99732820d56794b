"""Which feature of a new dictionary is which feature of the old one: optimal assignment on decoder cosines."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class Matching:
    """A one-to-one assignment of new features to old ones.

    Attributes:
        permutation: (n,) int64; ``new[permutation[i]]`` is the feature that continues ``old[i]``.
        cosines: (n,) float64 in -1..1, between ``old[i]`` and ``new[permutation[i]]``; 0 where either is a zero vector.
    """

    permutation: np.ndarray
    cosines: np.ndarray

    @property
    def mean_cosine(self) -> float:
        """Mean cosine of the matched pairs: 1 where the dictionary did not change."""
        return float(self.cosines.mean())


def match_features(old: np.ndarray, new: np.ndarray) -> Matching:
    """Match the features of two dictionaries so that the sum of their cosines is largest (Hungarian method).

    Args:
        old: (n, d) decoder directions, one a row.
        new: (n, d) likewise.

    Raises:
        ValueError: The dictionaries differ in shape.
    """
    from scipy.optimize import linear_sum_assignment

    if old.shape != new.shape or old.ndim != 2:
        raise ValueError(f"dictionaries to match must have one shape (n, d); got {old.shape} and {new.shape}")
    cosines = _unit(old) @ _unit(new).T
    rows, permutation = linear_sum_assignment(cosines, maximize=True)
    return Matching(permutation.astype(np.int64), cosines[rows, permutation])


def _unit(rows: np.ndarray) -> np.ndarray:
    wide = rows.astype(np.float64)
    return wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
