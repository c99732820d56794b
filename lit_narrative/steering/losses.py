"""The losses of PPLM (Dathathri et al. 2020) with their gradients in closed form.

Loss of a row: the sum over bags of -strength log sum_{w in bag} p(w), plus the cross-entropy of each wanted class, plus
kl_scale KL(steered || plain). Gradients are with regard to the logits, so that only the model itself needs automatic
differentiation.

Notation: B rows (texts), V vocabulary, K bags, N tokens of the longest bag. Rows do not interact.
"""

import math
from typing import NamedTuple

import torch
from torch.nn import functional

SMALL = 1e-15  # of the published code, added to norms and probabilities
LOG_SMALL = math.log(SMALL)


class Bags(NamedTuple):
    """The bags that rows are steered to.

    Attributes:
        ids: (B, K, N) int64 token ids, padded by any id of weight 0.
        weights: (B, K, N) of the tokens.
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
    of_words = probabilities.gather(1, bags.ids.view(rows, -1)).view(rows, count, longest)
    return (of_words * bags.weights).sum(-1)


def bag_loss(probabilities: torch.Tensor, bags: Bags) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum over bags of strength x -log mass, (B,), and its gradient with regard to the logits, (B, V)."""
    rows, count, longest = bags.ids.shape
    ids = bags.ids.view(rows, -1)
    of_words = probabilities.gather(1, ids).view(rows, count, longest) * bags.weights
    mass = of_words.sum(-1)
    # d(-log mass)/d logit_v = p_v - [v in bag] weight_v p_v / mass. A token in several bags, or twice in one, adds up.
    grad = probabilities * bags.strengths.sum()
    grad.scatter_add_(1, ids, (of_words * (-bags.strengths / mass)[..., None]).view(rows, -1))
    return -(mass.log() * bags.strengths).sum(-1), grad


def divergence(logprobs: torch.Tensor, plain: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """KL(steered || plain) in nats, (B,), and its gradient with regard to the steered logits, (B, V).

    Args:
        logprobs: (B, V) of the steered model; clamped at log 1e-15, as published.
        plain: (B, V) of the plain model; clamped too.
    """
    probabilities = logprobs.exp()
    ratios = logprobs.clamp(min=LOG_SMALL) - plain.clamp(min=LOG_SMALL)
    kl = (probabilities * ratios).sum(-1)
    # d KL / dz_j = p_j (log p_j - log q_j - KL).
    return kl, probabilities * (ratios - kl[:, None])


def class_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(B,) cross-entropy of (B, C) logits with the wanted classes (B,)."""
    return functional.cross_entropy(logits, labels, reduction="none")
