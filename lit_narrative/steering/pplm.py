"""The mathematics of PPLM (Dathathri et al. 2020): losses, window, gradient steps, fusion.

Notation: B rows (texts), V vocabulary, L blocks, T positions of the past, K bags, N tokens of the longest bag. Nothing
mixes rows: each has its own loss, norms and window.
"""

import math
from typing import NamedTuple

import torch
from torch.nn import functional

from lit_narrative.steering.pplm_settings import PPLMSettings

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


def window_weights(mask: torch.Tensor, settings: PPLMSettings) -> torch.Tensor | None:
    """(B, T) how far each position of the past may move; None: all alike.

    A row that is no longer than the window moves whole, as published; padding has no gradient anyway.

    Args:
        mask: (B, T) bool, true where a row has a token.
        settings: window length, anchor, decay.
    """
    window = settings.window_length
    if window == 0 or mask.shape[1] <= window:
        return None
    lengths = mask.sum(1, keepdim=True)
    place = mask.cumsum(1)  # 1, 2, … along the row's own tokens
    if settings.window_anchor == "recent":
        place = place - (lengths - window)
    inside = mask & (place >= 1) & (place <= window)
    weights = inside * (place / window if settings.decay else 1.0)
    return weights.where(lengths > window, 1.0)


def norms_so_far(squares: torch.Tensor, before: torch.Tensor | None, maximum: bool) -> torch.Tensor:
    """(L, B) what the gradients are divided by.

    Args:
        squares: (L, B) sums of the squares of each block's gradient, keys and values together.
        before: (L, B) the largest norms so far.
        maximum: keep the largest; else every step has its own.
    """
    norms = squares.sqrt()
    return torch.maximum(norms, before) if maximum and before is not None else norms + SMALL


def fuse(
    steered: torch.Tensor, plain: torch.Tensor, settings: PPLMSettings, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-scores of the geometric mean p_steered^gm p_plain^(1-gm), and those of the plain model, (B, V) each.

    The first are not normalised; the sum of their exponentials is at most 1.

    Args:
        steered: (B, V) logits behind the moved past.
        plain: (B, V) logits of the untouched model.
        settings: ``gm_scale`` and ``temperature_on``.
        temperature: of sampling.
    """
    cold = torch.log_softmax(steered / temperature, -1)
    other = torch.log_softmax(plain / (temperature if settings.temperature_on == "both" else 1.0), -1)
    return settings.gm_scale * cold + (1 - settings.gm_scale) * other, torch.log_softmax(plain / temperature, -1)
