"""Advantages and loss of PPO with a value head.

Notation: R completions, T longest completion. The value at a token is that of the state *before* it: of the prompt and
the tokens so far.
"""

from dataclasses import dataclass

import torch

from lit_narrative.errors import UserError


@dataclass(frozen=True)
class ValueSettings:
    """The value head's part of PPO.

    Args:
        gamma: discount a token, in 0..1.
        lam: lambda of generalised advantage estimation, in 0..1: 1 is the plain return, 0 one step ahead. With a reward
            that comes with the last token, less than 1 praises the last tokens before the first ones for as long as the
            values are not learned, and completions become short.
        value_clip: the value may leave the one at sampling by this much before its loss is clipped, above 0; None: no
            clipping.
        value_loss_weight: weight of the value loss beside the policy loss, above 0.

    Raises:
        UserError: a value is out of range.
    """

    gamma: float = 1.0
    lam: float = 1.0
    value_clip: float | None = 0.2
    value_loss_weight: float = 0.1

    def __post_init__(self) -> None:
        for name in ("gamma", "lam"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise UserError(f"model.value.{name}={value} must be in 0..1")
        for name in ("value_clip", "value_loss_weight"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"model.value.{name}={value} must be above 0")


def gae(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, *, gamma: float, lam: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016, eq. 16).

    delta_t = r_t + gamma V_{t+1} - V_t and A_t = sum over l of (gamma lam)^l delta_{t+l}. The value after the last
    token is 0: the text has ended, whoever ended it.

    Args:
        rewards: (R, T) of each token; the score of a completion stands at its last token.
        values: (R, T).
        mask: (R, T) bool, completion tokens, from the left without a gap.
        gamma: discount a token.
        lam: lambda.

    Returns:
        (R, T) advantages and (R, T) returns, A + V; 0 outside of the mask.
    """
    # Before the shift: the value after the last token of a short row is 0, not what the head makes of padding.
    values = values.masked_fill(~mask, 0.0)
    following = torch.nn.functional.pad(values[:, 1:], (0, 1))
    advantages = (rewards + gamma * following - values).masked_fill(~mask, 0.0)
    # A_t = delta_t + c A_{t+1} is solved by doubling: after each round every sum reaches twice as far. A loop over T
    # would be T small kernels one after another.
    reach, factor = 1, gamma * lam
    while reach < advantages.shape[1]:
        advantages = advantages + factor * torch.nn.functional.pad(advantages[:, reach:], (0, reach))
        reach, factor = 2 * reach, factor * factor
    return advantages.masked_fill(~mask, 0.0), (advantages + values).masked_fill(~mask, 0.0)


def value_loss(
    values: torch.Tensor,
    old_values: torch.Tensor,
    returns: torch.Tensor,
    mask: torch.Tensor,
    step_tokens: int,
    clip: float | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Half the squared error of the values, the worse of plain and clipped (PPO2; Huang et al. 2022, detail 9).

    1/2 max((V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2), mean over the tokens of the optimizer step.

    Args:
        values: (R, T), with gradient.
        old_values: (R, T) when the completions were sampled.
        returns: (R, T).
        mask: (R, T) bool.
        step_tokens: tokens of the loss mask of the optimizer step, over all micro-batches and processes.
        clip: c; None: no clipping.

    Returns:
        This micro-batch's part of the loss, and of the fraction of tokens whose loss is the clipped one (detached);
        both are summed over micro-batches.
    """
    error = (values - returns).square()
    clipped = torch.zeros_like(mask)
    if clip is not None:
        near = (torch.clamp(values, old_values - clip, old_values + clip) - returns).square()
        clipped = near > error
        # The larger of both: outside of the clip range the clipped error alone has no gradient, however wrong the value
        # is.
        error = torch.maximum(error, near)
    total = max(step_tokens, 1)
    return error.masked_fill(~mask, 0.0).sum() / (2 * total), (clipped & mask).sum() / total
