"""Policy losses as pure functions.

Notation: R completions of a micro-batch, T longest completion. The *window* is everything between two optimizer steps:
all micro-batches of all processes. Losses are divided by totals of the window, never of the micro-batch, and those of
micro-batches are summed; so the gradient does not depend on how the window was cut.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch

from lit_narrative.rl.kl import k3

LossType = Literal["grpo", "dr_grpo", "dapo"]


@dataclass(frozen=True)
class LossSettings:
    """What the loss is.

    Args:
        loss_type: how token losses are averaged: ``grpo`` mean of per-completion means (Shao et al. 2024, eq. 3),
            ``dr_grpo`` sum over a constant length (Liu et al. 2025), ``dapo`` mean over tokens (Yu et al. 2025, eq. 8).
        epsilon: the ratio is clipped below at 1 - epsilon.
        epsilon_high: and above at 1 + epsilon_high; default: epsilon ("clip higher" of DAPO otherwise).
        beta: weight of the divergence from the reference; 0 needs no reference.
        max_completion_length: the constant length of ``dr_grpo``.
    """

    loss_type: LossType
    epsilon: float
    epsilon_high: float
    beta: float
    max_completion_length: int


class Window(NamedTuple):
    """Totals of one optimizer step over all its micro-batches and processes."""

    rows: int
    tokens: int


class LossOutput(NamedTuple):
    """The scalar to differentiate, and detached sums over the micro-batch for the log."""

    loss: torch.Tensor
    kl: torch.Tensor
    clipped_low: torch.Tensor
    clipped_high: torch.Tensor


def policy_loss(
    logprobs: torch.Tensor,
    old: torch.Tensor,
    reference: torch.Tensor | None,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    window: Window,
    settings: LossSettings,
) -> LossOutput:
    """Clipped surrogate with a penalty for leaving the reference (PPO, Schulman et al. 2017, eq. 7; GRPO, eq. 3).

    Args:
        logprobs: (R, T) of the policy, with gradient.
        old: (R, T) of the policy that sampled.
        reference: (R, T) of the reference; None if beta is 0.
        advantages: (R,).
        mask: (R, T) bool, true on completion tokens.
        window: totals to divide by.
        settings: which loss.
    """
    ratio = torch.exp(logprobs - old)  # (R, T)
    low, high = 1 - settings.epsilon, 1 + settings.epsilon_high
    weight = advantages[:, None]
    per_token = -torch.minimum(ratio * weight, ratio.clamp(low, high) * weight)
    kl = logprobs.new_zeros(())
    if reference is not None:
        divergence = k3(logprobs, reference)
        per_token = per_token + settings.beta * divergence
        kl = (divergence.detach() * mask).sum()
    clipped_low = ((ratio < low) & (weight < 0) & mask).sum()
    clipped_high = ((ratio > high) & (weight > 0) & mask).sum()
    return LossOutput(aggregate(per_token, mask, window, settings), kl, clipped_low, clipped_high)


def aggregate(per_token: torch.Tensor, mask: torch.Tensor, window: Window, settings: LossSettings) -> torch.Tensor:
    """This micro-batch's share of the window's loss: (R, T) token losses to a scalar."""
    if settings.loss_type == "grpo":
        return ((per_token * mask).sum(1) / mask.sum(1).clamp(min=1)).sum() / window.rows
    if settings.loss_type == "dr_grpo":
        return (per_token * mask).sum() / (window.rows * settings.max_completion_length)
    return (per_token * mask).sum() / max(window.tokens, 1)
