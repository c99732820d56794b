"""Metrics of a sparse autoencoder (reconstruction, firing), and the matching of its features to an older one's."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchmetrics import ExplainedVariance, MeanSquaredError, Metric, MetricCollection


class Firing(Metric):
    """How often each latent fires: ``density`` (d_sae,), ``l0`` and ``dead_fraction`` over everything seen.

    Args:
        d_sae: number of latents.
        shared: add up what all processes have seen; without, one process may compute while the others wait.
    """

    # Counts only grow, so torchmetrics need not update twice in a `forward`.
    full_state_update = False
    counts: Tensor
    total: Tensor

    def __init__(self, d_sae: int, shared: bool = True) -> None:
        super().__init__(sync_on_compute=shared)
        self.add_state("counts", torch.zeros(d_sae, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, latents: Tensor) -> None:
        """Count the latents (batch, d_sae) that are not zero."""
        self.counts += (latents != 0).sum(0)
        self.total += len(latents)

    def compute(self) -> dict[str, Tensor]:
        """Density in 0..1; l0, the mean number of active latents; the share of latents that never fired."""
        density = self.counts / self.total
        return {"density": density, "l0": density.sum(), "dead_fraction": (density == 0).float().mean()}


def reconstruction_metrics(shared: bool = True) -> MetricCollection:
    """``mse`` (mean over vectors and components) and ``explained_variance`` (1 − Σ residual variance / Σ variance).

    Both take (reconstruction, vectors), each (batch, d_in); ``shared`` as in `Firing`.
    """
    variance = ExplainedVariance(multioutput="variance_weighted", sync_on_compute=shared)
    return MetricCollection({"mse": MeanSquaredError(sync_on_compute=shared), "explained_variance": variance})


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


def match_features(old: np.ndarray, new: np.ndarray, groups: np.ndarray | None = None) -> Matching:
    """Match the features of two dictionaries so that the sum of their cosines is largest (Hungarian method).

    Args:
        old: (n, d) decoder directions, one a row.
        new: (n, d) likewise.
        groups: (n,) int; a feature continues one of its own group. None: any.

    Raises:
        ValueError: The dictionaries differ in shape.
    """
    from scipy.optimize import linear_sum_assignment

    if old.shape != new.shape or old.ndim != 2:
        raise ValueError(f"dictionaries to match must have one shape (n, d); got {old.shape} and {new.shape}")
    cosines = _unit(old) @ _unit(new).T
    # No sum of cosines makes up for a pair of two groups.
    barred = 0.0 if groups is None else 4.0 * len(old) * (groups[:, None] != groups)
    rows, permutation = linear_sum_assignment(cosines - barred, maximize=True)
    return Matching(permutation.astype(np.int64), cosines[rows, permutation])


def _unit(rows: np.ndarray) -> np.ndarray:
    wide = rows.astype(np.float64)  # so that a feature's cosine with itself is 1 to twelve digits
    # A dead feature may be a zero vector: its cosines are 0 then, not NaN, which the assignment would refuse.
    return wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
