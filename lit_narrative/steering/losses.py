"""The mathematics of PPLM (Dathathri et al. 2020): losses, window, gradient steps, fusion.

Notation: B rows (texts), V vocabulary, L blocks, T positions of the past, K bags, N tokens of the longest bag. Nothing
mixes rows: each has its own loss, norms and window.
"""

import math
from typing import NamedTuple

import torch
from torch.nn import functional

SMALL = 1e-15
LOG_SMALL = math.log(SMALL)


class Bags(NamedTuple):
    """The bags that rows are steered to.

    Attributes:
        ids: (B, K, N) int64 token ids, padded by any id of weight 0.
        weights: (B, K, N) what a token counts.
        strengths: (K,) weight of each bag's loss.
    """

    ids: torch.Tensor
    weights: torch.Tensor
    strengths: torch.Tensor

    def rows(self, rows: torch.Tensor) -> "Bags":
        """Those of some rows."""
        return Bags(self.ids[rows], self.weights[rows], self.strengths)


def bag_mass(probabilities: torch.Tensor, bags: Bags) -> torch.Tensor:
    """(B, K) weighted probability of each bag, given (B, V)."""
    rows, count, longest = bags.ids.shape
    found = probabilities.gather(1, bags.ids.view(rows, -1)).view(rows, count, longest)
    return (found * bags.weights).sum(-1)


def bag_loss(probabilities: torch.Tensor, bags: Bags) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum over bags of strength x -log mass, (B,), and its gradient with regard to the logits, (B, V)."""
    rows, count, longest = bags.ids.shape
    ids = bags.ids.view(rows, -1)
    found = probabilities.gather(1, ids).view(rows, count, longest) * bags.weights
    mass = found.sum(-1)
    grad = probabilities * bags.strengths.sum()
    grad.scatter_add_(1, ids, (found * (-bags.strengths / mass)[..., None]).view(rows, -1))
    return -(mass.log() * bags.strengths).sum(-1), grad


def divergence(logprobs: torch.Tensor, plain: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """KL(steered || plain) in nats, (B,), and its gradient with regard to the steered logits, (B, V).

    Args:
        logprobs: (B, V) of the steered model; below log 1e-15 they count as that, as published.
        plain: (B, V) of the plain one, likewise.
    """
    probabilities = logprobs.exp()
    ratios = logprobs.clamp(min=LOG_SMALL) - plain.clamp(min=LOG_SMALL)
    kl = (probabilities * ratios).sum(-1)
    return kl, probabilities * (ratios - kl[:, None])


def class_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(B,) cross-entropy of (B, C) logits with the wanted classes (B,)."""
    return functional.cross_entropy(logits, labels, reduction="none")
