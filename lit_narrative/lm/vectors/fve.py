"""Vectors beside their reconstructions: the losses, and the fraction of variance explained (FVE).

Notation: n vectors, a width of each, g a vector and p its reconstruction, both at one norm, m the mean of all g.

FVE = 1 - mean |p - g|^2 / mean |g - m|^2. The mean m is not brought to the norm again, which would make the variance
larger and the FVE better than it is. Where vectors are normalised, 0 is not the level of knowing nothing: an answer has
that norm too, and the best constant one, n(m), is worth 1 - mean |n(m) - g|^2 / mean |g - m|^2, which is below 0.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric

EPS = 1e-12
Loss = Literal["mse", "cosine", "smooth_l1"]


def normalise(vectors: Tensor, scale: float | None) -> Tensor:
    """Vectors (..., a) at the norm ``scale``, as they are without one; zeros stay zeros, with a finite gradient."""
    if scale is None:
        return vectors
    # The small number stands inside the root: a norm that is only kept from 0 has an endless gradient there.
    return vectors * (scale / (vectors.square().sum(-1, keepdim=True) + EPS).sqrt())


def losses(predicted: Tensor, target: Tensor, loss: Loss = "mse", scale: float | None = None) -> Tensor:
    """(n,) the loss of each row, a mean over its components.

    Args:
        predicted: (n, a).
        target: (n, a).
        loss: its kind.
        scale: norm that both are brought to; None: as they are. ``cosine`` does without.
    """
    if loss == "cosine":
        return 1 - (normalise(predicted, 1.0) * normalise(target, 1.0)).sum(-1)
    predicted, target = normalise(predicted, scale), normalise(target, scale)
    if loss == "smooth_l1":
        return functional.smooth_l1_loss(predicted, target, reduction="none").mean(-1)
    return (predicted - target).square().mean(-1)


def explained_shares(predicted: Tensor, gold: Tensor, scale: float | None) -> Tensor:
    """(n,) what is explained of each vector, 1 - |p - g|^2 / mean |g - m|^2, whose mean is the FVE; float64.

    Args:
        predicted: (n, a).
        gold: (n, a), not all the same.
        scale: norm that both are brought to; None: as they are.
    """
    p, g = normalise(predicted.double(), scale), normalise(gold.double(), scale)
    return 1 - (p - g).square().sum(-1) / (g - g.mean(0)).square().sum(-1).mean()


class FVE(Metric):
    """The fraction of variance explained of all vectors seen, over all processes.

    `compute` gives a dict: ``fve``; ``fve_median``, the median over vectors of what is explained of each;
    ``floor``, the FVE of the best constant answer; ``cosine``, the mean of cos(p, g). NaN where all vectors are the
    same.

    Args:
        width: a.
        scale: norm that vectors are brought to; None: as they are.
    """

    full_state_update = False
    total: Tensor
    squares: Tensor
    errors: list[Tensor] | Tensor
    cosines: Tensor

    def __init__(self, width: int, scale: float | None) -> None:
        super().__init__()
        self.scale = scale
        self.add_state("total", torch.zeros(width, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("squares", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("cosines", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("errors", [], dist_reduce_fx="cat")  # a number a vector, for the median

    def update(self, predicted: Tensor, gold: Tensor) -> None:
        """Take further vectors, (n, a) each."""
        # In float64: a variance as a difference of sums loses most of its digits in float32.
        p, g = normalise(predicted.double(), self.scale), normalise(gold.double(), self.scale)
        self.total += g.sum(0)
        self.squares += g.square().sum()
        self.cosines += (normalise(p, 1.0) * normalise(g, 1.0)).sum()
        assert isinstance(self.errors, list)
        self.errors.append((p - g).square().sum(-1))

    def compute(self) -> dict[str, Tensor]:
        """The figures, a scalar each."""
        # After a reduction the state is one tensor.
        errors = torch.cat(self.errors) if isinstance(self.errors, list) else self.errors
        count = len(errors)
        mean, power = self.total / count, self.squares / count
        variance = power - mean.square().sum()
        constant = normalise(mean, self.scale)
        distance = constant.square().sum() - 2 * (constant * mean).sum() + power
        explained = 1 - errors / variance
        return {
            "fve": explained.mean(),
            "fve_median": explained.quantile(0.5),
            "floor": 1 - distance / variance,
            "cosine": self.cosines / count,
        }
