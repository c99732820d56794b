"""Ratios of the policy to the one that sampled, and the divergence from the reference, as pure functions.

Three policies stand beside the one that learns: ``old``, as it was when the completions were sampled, scored by the
trainer; the ``sampler``, the same weights scored by another engine; the ``reference``, from which the divergence is
taken.

Notation: R completions, T longest completion; log-probabilities in nats.
"""

import math
from typing import Literal

import torch

Level = Literal["token", "sequence", "sentence"]
ImportanceMode = Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]
KLEstimator = Literal["k1", "k2", "k3", "abs"]


def log_ratio_at(
    log_ratio: torch.Tensor, mask: torch.Tensor, level: Level, sentences: torch.Tensor | None = None
) -> torch.Tensor:
    """Logarithm of the importance ratio at the chosen level.

    ``token``: log pi/pi_old of each token (PPO, GRPO). ``sequence``: its mean over the completion, the logarithm of
    the length-normalised ratio (GSPO, Zheng et al. 2025, eq. 7). ``sentence``: its mean over the sentence that the
    token belongs to, GSPO's ratio with sentences in place of completions; one sentence makes it ``sequence``,
    sentences of one token make it ``token``.

    Args:
        log_ratio: (R, T) per token; its gradient is kept.
        mask: (R, T) bool, tokens that count.
        level: of the ratio.
        sentences: (R, T) int64, index of each token's sentence within its completion, in 0..T-1.

    Returns:
        (R, T), or (R, 1) for ``sequence``.

    Raises:
        ValueError: ``sentence`` without ``sentences``.
    """
    if level == "token":
        return log_ratio
    masked = log_ratio * mask
    if level == "sequence":
        # The mean and not the sum: the product of hundreds of ratios leaves every clip range (GSPO, eq. 7).
        return masked.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
    if sentences is None:
        raise ValueError("the sentence level needs the sentence of each token")
    # A completion of T tokens has at most T sentences, so sums by sentence fit into (R, T), one column each.
    sums = torch.zeros_like(masked).scatter_add(1, sentences, masked)
    counts = torch.zeros_like(masked).scatter_add(1, sentences, mask.to(masked.dtype))
    return (sums / counts.clamp(min=1)).gather(1, sentences)


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
    # Filled before the sum: one token without a score would make the ratio of its whole sequence NaN.
    difference = (old - sampler).masked_fill(~mask | sampler.isnan(), 0.0)
    by_sequence = mode.startswith("sequence")
    # Here the sum: importance weights are exact for the whole completion, biased if normalised by length.
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
    # Without a scored token the drift is logged as 0, as TRL does; `min` of nothing would raise.
    values = values if values.numel() else values.new_zeros(1)
    return {f"{name}/{kind}": getattr(values, kind)() for kind in kinds}


def kl_divergence(logprobs: torch.Tensor, reference: torch.Tensor, estimator: KLEstimator = "k3") -> torch.Tensor:
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
        estimator: of the divergence.

    Returns:
        nats, of the shape of ``logprobs``.
    """
    difference = logprobs - reference
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return difference.square() / 2
    if estimator == "abs":
        return difference.abs()
    return torch.exp(-difference) + difference - 1
