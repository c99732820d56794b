"""The formulas of PPLM (Dathathri et al. 2020) besides its losses: window, gradient norms, fusion.

For every token the keys and values H of the past take ``num_iterations`` steps

    H <- H - stepsize w(t) g / ||g||^gamma    (eq. 3, with g the gradient of the loss and w(t) the window weights),

and the token is sampled from p_steered^gm p_plain^(1 - gm), normalised (section 3.3).

Notation: B rows, V vocabulary, L blocks, T positions of the past. Rows do not interact.
"""

import torch

from lit_narrative.steering.losses import SMALL
from lit_narrative.steering.pplm.settings import PPLMSettings


def window_weights(mask: torch.Tensor, settings: PPLMSettings) -> torch.Tensor | None:
    """(B, T) weight of each position's gradient; None: 1 everywhere.

    A row that is not longer than the window moves as a whole, as published; padding has no gradient.

    Args:
        mask: (B, T) bool, true where a row has a token.
        settings: window length, anchor, decay.
    """
    window = settings.window_length
    if window == 0 or mask.shape[1] <= window:
        return None
    lengths = mask.sum(1, keepdim=True)
    position = mask.cumsum(1)  # 1, 2, … along the tokens of the row, padding aside
    if settings.window_anchor == "recent":
        # Shifted so that the row's last tokens are the ones numbered 1 to `window`.
        position = position - (lengths - window)
    inside = mask & (position >= 1) & (position <= window)
    weights = inside * (position / window if settings.decay else 1.0)
    return weights.where(lengths > window, 1.0)


def norms_so_far(squares: torch.Tensor, before: torch.Tensor | None, maximum: bool) -> torch.Tensor:
    """(L, B) norms that the gradients are divided by.

    Args:
        squares: (L, B) sums of the squares of each block's gradient, keys and values together.
        before: (L, B) the largest norms so far.
        maximum: use the largest norm so far; else the norm of each step.
    """
    norms = squares.sqrt()
    # The small constant keeps a zero gradient from dividing by zero; the published code adds it at these steps only.
    return torch.maximum(norms, before) if maximum and before is not None else norms + SMALL


def fuse(
    steered: torch.Tensor, plain: torch.Tensor, settings: PPLMSettings, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-scores of the geometric mean p_steered^gm p_plain^(1-gm), and those of the plain model, (B, V) each.

    The first are not normalised; the sum of their exponentials is at most 1.

    Args:
        steered: (B, V) logits after the moved past.
        plain: (B, V) logits of the plain model.
        settings: ``gm_scale`` and ``temperature_on``.
        temperature: of sampling.
    """
    cold = torch.log_softmax(steered / temperature, -1)
    other = torch.log_softmax(plain / (temperature if settings.temperature_on == "both" else 1.0), -1)
    # A weighted mean of log-probabilities is the logarithm of the geometric mean.
    return settings.gm_scale * cold + (1 - settings.gm_scale) * other, torch.log_softmax(plain / temperature, -1)
