"""Estimators of the divergence from the reference policy."""

from typing import Literal

import torch

Estimator = Literal["k1", "k2", "k3", "abs"]


def kl_divergence(logprobs: torch.Tensor, reference: torch.Tensor, estimator: Estimator = "k3") -> torch.Tensor:
    """Per-token estimate of KL(policy || reference) (Schulman 2020, "Approximating KL divergence").

    With d = logprobs - reference: ``k1`` d, unbiased; ``k2`` d^2 / 2, biased, never negative; ``k3`` exp(-d) + d - 1,
    unbiased, never negative; ``abs`` |d|, a distance rather than an estimate.
    Their gradients as part of a loss, in the mean over the policy's own tokens: ``k1`` 0; ``k2`` that of the reverse
    KL(policy || reference); ``k3`` that of the forward KL(reference || policy); ``abs`` twice that of the total
    variation. Multiplied by the ratio policy / old, each has the gradient of its own mean instead, which for ``k1``
    and ``k3`` is the reverse KL.

    Args:
        logprobs: log-probabilities under the policy, any shape, nats.
        reference: the same tokens under the reference.
        estimator: which.
    """
    difference = logprobs - reference
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return difference.square() / 2
    if estimator == "abs":
        return difference.abs()
    return torch.exp(-difference) + difference - 1
