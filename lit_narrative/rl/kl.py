"""Estimators of the divergence from the reference policy."""

import torch


def k3(logprobs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Unbiased, never negative per-token estimate of KL(policy || reference) (Schulman 2020, "k3").

    Args:
        logprobs: log-probabilities under the policy, any shape, nats.
        reference: the same tokens under the reference.
    """
    log_ratio = reference - logprobs
    return torch.exp(log_ratio) - log_ratio - 1
