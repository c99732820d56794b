"""The policy term of each loss type: what a token adds to the loss before masks, divergence and averaging.

Notation: R completions, T longest completion; shapes (R, T), or (R, 1) where a whole completion has one value.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch

from lit_narrative.rl.loss_settings import LossSettings


class SurrogateInputs(NamedTuple):
    """A micro-batch as the policy terms read it; everything outside the mask is 0.

    Attributes:
        logprobs: (R, T) of the policy, with gradient.
        old: (R, T) of the policy when it sampled.
        log_ratio: (R, T), their difference, with gradient.
        ratio: (R, T) or (R, 1), at the level of the settings, with gradient.
        advantages: (R, T) or (R, 1).
        mask: (R, T) bool.
        is_ratio: (R, T) or (R, 1), of a foreign sampler; None: none.
        token_advantages: whether each token has an advantage; completions of one token are (R, 1) either way.
    """

    logprobs: torch.Tensor
    old: torch.Tensor
    log_ratio: torch.Tensor
    ratio: torch.Tensor
    advantages: torch.Tensor
    mask: torch.Tensor
    is_ratio: torch.Tensor | None
    token_advantages: bool = False


class Surrogate(NamedTuple):
    """A policy term with its metrics.

    Attributes:
        term: (R, T) or (R, 1), to be minimised.
        averages: by TRL's name, (R, T) to be averaged over tokens, or (R, 1) over completions.
        whole: whether it is completions; like ``token_advantages``, the shape does not show it.
    """

    term: torch.Tensor
    averages: dict[str, torch.Tensor]
    whole: bool


def clipped(inputs: SurrogateInputs, settings: LossSettings) -> Surrogate:
    """-min(rho A, clip(rho, 1 - epsilon, 1 + epsilon_high) A) (PPO, Schulman et al. 2017, eq. 7).

    With ``delta`` the first rho is capped at delta (two-sided clipping, INTELLECT-2, 2025, section 3.4).
    """
    low, high = 1 - settings.epsilon, settings.upper
    # From the ratio before `delta`, as TRL: the cap belongs to the other argument of the minimum.
    inside = inputs.ratio.clamp(low, high)
    ratio = inputs.ratio if settings.delta is None else inputs.ratio.clamp(max=settings.delta)
    # A token counts as clipped where clipping takes its gradient away, which the sign of the advantage decides.
    below = (ratio < low) & (inputs.advantages < 0)
    above = (ratio > high) & (inputs.advantages > 0)
    averages = {"clip_ratio/low_mean": below, "clip_ratio/high_mean": above, "clip_ratio/region_mean": below | above}
    term = -torch.minimum(ratio * inputs.advantages, inside * inputs.advantages)
    return Surrogate(term, averages, _ratio_is_whole(inputs, settings))


def cispo(inputs: SurrogateInputs, settings: LossSettings) -> Surrogate:
    """-stopgrad(min(rho, cap)) A log pi (MiniMax-M1, 2025, eq. 4; ScaleRL, Khatri et al. 2025)."""
    # Detached: the ratio is a weight of log pi, so a capped token still learns, which a clipped one does not.
    weight = inputs.ratio.detach().clamp(max=settings.upper)
    # Only where the advantage is positive, as TRL counts it.
    capped = (inputs.ratio > settings.upper) & (inputs.advantages > 0)
    term = -weight * inputs.advantages * inputs.logprobs
    return Surrogate(term, {"cispo_clip_ratio": capped}, _ratio_is_whole(inputs, settings))


def sapo(inputs: SurrogateInputs, settings: LossSettings) -> Surrogate:
    """-(4 / tau) sigmoid(tau (rho - 1)) A, tau by the sign of A (SAPO, Gao et al. 2025, eq. 5)."""
    tau = _choose(inputs.advantages > 0, settings.sapo_temperature_pos, settings.sapo_temperature_neg, inputs.ratio)
    # 4 / tau makes the slope at ratio 1 the advantage itself, whatever tau: sigmoid' is 1/4 there.
    return Surrogate(-torch.sigmoid(tau * (inputs.ratio - 1)) * 4 / tau * inputs.advantages, {}, whole=False)


def vespo(inputs: SurrogateInputs, settings: LossSettings) -> Surrogate:
    """-phi(w) A log pi with w the ratio of the whole completion (VESPO, 2026)."""
    phi = gamma_weights(inputs, settings)
    term = -phi * inputs.advantages * inputs.logprobs
    return Surrogate(term, {"vespo/phi_seq_mean": phi}, whole=not inputs.token_advantages)


@torch.no_grad()
def gamma_weights(inputs: SurrogateInputs, settings: LossSettings) -> torch.Tensor:
    """phi(w) = w^k exp(lambda (1 - w)), so that phi(1) = 1; k and lambda by the sign of the advantage.

    w is the product of the token ratios of the completion, and of those of a foreign sampler; clamped as in the
    authors' code.

    Returns:
        Of the shape of ``inputs.advantages``.
    """
    lowest, highest = math.log(1e-8), 20.0
    # In logarithms and clamped: the product of a few hundred ratios leaves the range of float32.
    log_w = (inputs.log_ratio.clamp(-highest, highest) * inputs.mask).sum(1, keepdim=True)
    if inputs.is_ratio is not None:
        log_w = log_w + (inputs.is_ratio.log().clamp(lowest, highest) * inputs.mask).sum(1, keepdim=True)
    log_w = log_w.clamp(lowest, highest)
    good = inputs.advantages >= 0
    k = _choose(good, settings.vespo_k_pos, settings.vespo_k_neg, log_w)
    # A floor, as in the authors' code: without decay w^k grows without bound.
    decay = _choose(good, settings.vespo_lambda_pos, settings.vespo_lambda_neg, log_w).clamp(min=1e-4)
    # log phi = k log w + lambda (1 - w).
    return torch.exp(decay + k * log_w - decay * log_w.exp()).nan_to_num(0.0, 0.0, 0.0)


def _ratio_is_whole(inputs: SurrogateInputs, settings: LossSettings) -> bool:
    """Whether what the ratio and the advantage decide together is the same for a whole completion."""
    return settings.importance_sampling_level == "sequence" and not inputs.token_advantages


def _choose(condition: torch.Tensor, if_true: float, if_false: float, like: torch.Tensor) -> torch.Tensor:
    """One of two numbers for each element, in the precision of ``like`` (``torch.where`` would make it float32)."""
    return like.new_full(condition.shape, if_false).masked_fill(condition, if_true)


SURROGATES: dict[str, Callable[[SurrogateInputs, LossSettings], Surrogate]] = {
    "grpo": clipped,
    "bnpo": clipped,
    "dr_grpo": clipped,
    "dapo": clipped,
    "luspo": clipped,
    "cispo": cispo,
    "sapo": sapo,
    "vespo": vespo,
}
