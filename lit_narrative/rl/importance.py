"""Correction for a foreign sampler: one that is not quite the policy that trains.

Notation: R completions, T longest completion.
"""

import math
from typing import Literal

import torch

ImportanceMode = Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]


def importance_ratio(
    old: torch.Tensor,
    sampler: torch.Tensor,
    mask: torch.Tensor,
    mode: ImportanceMode,
    clip_min: float | None = None,
    clip_max: float | None = 3.0,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Ratio of the policy as the trainer scores it to the one that the sampler drew from.

    r = exp(log pi_trainer - log pi_sampler), of a token, or of the completion (the sum of its tokens). ``truncate``
    clamps it (truncated importance sampling, Yao et al. 2025), ``mask`` makes it 0 outside of the bounds (masked
    importance sampling, Liu et al. 2025). A token that the sampler could not score (NaN) counts as ratio 1.

    Args:
        old: (R, T) log-probabilities as the trainer scored the completions when they were sampled, nats.
        sampler: (R, T) as the sampler reported them; NaN where it did not.
        mask: (R, T) bool.
        mode: of a token or of a sequence, clamped or masked.
        clip_min: lower bound; None: none.
        clip_max: upper bound; None: none.

    Returns:
        The ratio, (R, T) or (R, 1), and what TRL logs of it: ``sampling/sampling_logp_difference/{mean,max}`` over
        the tokens and ``sampling/importance_sampling_ratio/{min,mean,max}`` over tokens or completions, scalars.
    """
    difference = (old - sampler).masked_fill(~mask | sampler.isnan(), 0.0)
    by_sequence = mode.startswith("sequence")
    ratio = (difference.sum(1, keepdim=True) if by_sequence else difference).exp()
    low = -math.inf if clip_min is None else clip_min
    high = math.inf if clip_max is None else clip_max
    if mode.endswith("truncate"):
        ratio = ratio.clamp(low, high)
    else:
        ratio = ratio.masked_fill((ratio < low) | (ratio > high), 0.0)
    known = difference[mask & ~sampler.isnan()].abs()
    applied = ratio.flatten() if by_sequence else ratio[mask]
    metrics = _summary("sampling/sampling_logp_difference", known, ("mean", "max"))
    metrics |= _summary("sampling/importance_sampling_ratio", applied, ("min", "mean", "max"))
    return ratio, metrics


def _summary(name: str, values: torch.Tensor, kinds: tuple[str, ...]) -> dict[str, torch.Tensor]:
    values = values if values.numel() else values.new_zeros(1)
    return {f"{name}/{kind}": getattr(values, kind)() for kind in kinds}
