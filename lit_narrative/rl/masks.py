"""Which tokens and completions take part in the policy term.

Notation: R completions, T longest completion.
"""

import torch


def off_policy_mask(
    advantages: torch.Tensor, logprobs: torch.Tensor, behaviour: torch.Tensor, mask: torch.Tensor, threshold: float
) -> torch.Tensor:
    """Completions to keep: good ones, and bad ones that the policy has not drifted from (DeepSeek-V3.2, 2025, eq. 9).

    keep = A >= 0 or mean over the completion of (log pi_behaviour - log pi) <= threshold.

    Args:
        advantages: (R, 1) or (R, T).
        logprobs: (R, T) of the policy; no gradient flows.
        behaviour: (R, T) of what sampled, nats; NaN where unknown, which counts as no drift.
        mask: (R, T) bool.
        threshold: nats a token.

    Returns:
        bool, of the shape of ``advantages``.
    """
    drift = (behaviour - logprobs.detach()).nan_to_num(nan=0.0) * mask
    mean = drift.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
    return (advantages >= 0) | (mean <= threshold)


def entropy_threshold(values: torch.Tensor, quantile: float) -> torch.Tensor:
    """Entropy from which on a token belongs to the top share (Wang et al. 2025, "Beyond the 80/20 rule", eq. 5).

    Args:
        values: (N,) entropies of all completion tokens of the window, of all processes; masked tokens left out.
        quantile: share of tokens to keep, in 0..1: 0 keeps the maximum only.

    Returns:
        scalar float32: the (1 - quantile) quantile with linear interpolation, plus infinity if there is no token.
        Tokens with an entropy at or above it are kept.
    """
    values = values.detach().float()
    if not values.numel():
        return values.new_full((), torch.inf)
    # Not torch.quantile, which refuses more than 16 million values.
    position = (1 - quantile) * (values.numel() - 1)
    low = int(position)
    ordered = values.sort().values
    return torch.lerp(ordered[low], ordered[min(low + 1, values.numel() - 1)], position - low)
