"""FIXME."""

import torch

from lit_narrative.steering.losses import SMALL
from lit_narrative.steering.pplm.settings import PPLMSettings


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
