"""How well a sparse autoencoder rebuilds its vectors, and how often its latents fire: torchmetrics, rank-safe."""

import torch
from torch import Tensor
from torchmetrics import ExplainedVariance, MeanSquaredError, Metric, MetricCollection


class Firing(Metric):
    """How often each latent fires: ``density`` (d_sae,), ``l0`` and ``dead_fraction`` over everything seen.

    Args:
        d_sae: number of latents.
        shared: add up what all processes have seen; without, one process may compute while the others wait.
    """

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
