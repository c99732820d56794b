"""Policy losses as pure functions, with the masks of tokens and completions that take part.

Notation: R completions of a micro-batch, T longest completion. An *optimizer step* learns from all micro-batches of all
processes since the step before. Losses are divided by totals of the optimizer step, never of the micro-batch, and those
of micro-batches are summed; so the gradient does not depend on how the step's completions were split.
"""

from typing import NamedTuple

import torch

from lit_narrative.rl.loss_settings import LossSettings
from lit_narrative.rl.ratios import kl_divergence, log_ratio_at
from lit_narrative.rl.surrogates import SURROGATES, SurrogateInputs


class StepTotals(NamedTuple):
    """Totals of one optimizer step over all its micro-batches and processes.

    Attributes:
        rows: completions, those whose tokens are all masked included.
        tokens: tokens of the loss mask.
        entropy_tokens: tokens of the entropy bonus: those of the loss mask that the top-entropy mask keeps.
        max_completion_length: the constant length of ``dr_grpo``.
        completion_tokens: all tokens of completions, of those too that the loss mask leaves out.
    """

    rows: int
    tokens: int
    entropy_tokens: int
    max_completion_length: int
    completion_tokens: int = 0


class LossInputs(NamedTuple):
    """One micro-batch. Log-probabilities are in nats, at the temperature that sampled.

    Attributes:
        logprobs: (R, T) of the policy, with gradient.
        old: (R, T) of the policy when it sampled; None: this is that policy, and the ratio is 1.
        mask: (R, T) bool, tokens that count; rows of masked truncated completions are all false.
        advantages: (R,) or (R, T).
        reference: (R, T) of the reference; None if there is none.
        entropy: (R, T) of the policy, with gradient if there is a bonus; None: neither bonus nor metric.
        sampler: (R, T) of a foreign sampler; NaN where it gave none.
        is_ratio: (R, T) or (R, 1), correction for a foreign sampler.
        sentences: (R, T) int64, 0-based sentence of each token within its completion.
        keep: (R, T) bool, tokens of the top-entropy mask, which is computed once over the rollout batch.
    """

    logprobs: torch.Tensor
    old: torch.Tensor | None
    mask: torch.Tensor
    advantages: torch.Tensor
    reference: torch.Tensor | None = None
    entropy: torch.Tensor | None = None
    sampler: torch.Tensor | None = None
    is_ratio: torch.Tensor | None = None
    sentences: torch.Tensor | None = None
    keep: torch.Tensor | None = None


class LossOutput(NamedTuple):
    """The loss of a micro-batch with its gradient, and its part of the logged metrics.

    Attributes:
        loss: this micro-batch's part of the step's loss, scalar; parts are summed, never divided again.
        sums: detached scalars by TRL's names, divided by the step's totals already: summed over micro-batches and
            processes they are the step's values. ``policy_loss`` is the loss without the entropy bonus,
            ``entropy_bonus`` the mean entropy over the tokens of the bonus, left out if the step has none.
        min_max: detached scalars named ``…_min`` and ``…_max``, over completions, to be combined by minimum and
            maximum; infinite where no completion has a token, which is neutral.
    """

    loss: torch.Tensor
    sums: dict[str, torch.Tensor]
    min_max: dict[str, torch.Tensor]


def policy_loss(
    inputs: LossInputs, totals: StepTotals, settings: LossSettings, *, entropy_coef: float = 0.0
) -> LossOutput:
    """Loss of one micro-batch: policy term, divergence from the reference, entropy bonus.

    Token loss x = p k o r + beta KL, with p the term of the loss type, k the top-entropy mask, o the off-policy mask,
    r the correction for a foreign sampler (inside p for ``vespo``), KL multiplied by the ratio if it is corrected for
    bias; averaged as the loss type says; minus ``entropy_coef`` times the mean entropy. The order is TRL's.

    Args:
        inputs: the micro-batch.
        totals: of the optimizer step, to divide by.
        settings: which loss.
        entropy_coef: weight of the bonus in this step, see `lit_narrative.rl.entropy.AdaptiveEntropy`.

    Raises:
        ValueError: the settings need an input that is None.
    """
    _check(inputs, settings, entropy_coef)
    prepared = _prepare(inputs, settings)
    surrogate = SURROGATES[settings.loss_type](prepared, settings)
    sums = {
        name: _mean_part(values, prepared.mask, totals, whole=surrogate.whole)
        for name, values in surrogate.averages.items()
    }
    per_token, dropped = _masked(surrogate.term, inputs, prepared, settings)
    if dropped is not None:
        whole = not prepared.token_advantages
        sums["off_policy_mask/dropped_mean"] = _mean_part(dropped, prepared.mask, totals, whole=whole)
    if inputs.reference is not None:
        divergence = _divergence(inputs.reference, prepared, settings)
        sums["kl"] = _mean_part(divergence, prepared.mask, totals)
        if settings.beta and not settings.kl_in_reward:
            # Added last: the masks and the correction above drop or scale the policy term, never the divergence.
            per_token = per_token + settings.beta * divergence
    loss = aggregate(per_token, prepared.mask, totals, settings)
    sums["policy_loss"] = loss.detach()
    if inputs.entropy is not None:
        sums["entropy"] = _mean_part(inputs.entropy, prepared.mask, totals)
        acting = prepared.mask if inputs.keep is None else prepared.mask & inputs.keep
        bonus = (inputs.entropy * acting).sum() / max(totals.entropy_tokens, 1)
        if totals.entropy_tokens:
            sums["entropy_bonus"] = bonus.detach()
        # Not 0 * bonus, which would run the backward pass through the entropy for nothing.
        loss = loss - entropy_coef * bonus if entropy_coef else loss
    return LossOutput(loss, sums, _min_max(surrogate.averages, prepared.mask))


def aggregate(per_token: torch.Tensor, mask: torch.Tensor, totals: StepTotals, settings: LossSettings) -> torch.Tensor:
    """This micro-batch's part of the step's loss: token losses (R, T) or (R, 1) to a scalar."""
    masked = per_token * mask
    if settings.loss_type in ("grpo", "sapo"):
        # A row that is masked whole adds 0 and still counts among the rows, as in TRL.
        return (masked.sum(1) / mask.sum(1).clamp(min=1)).sum() / totals.rows
    if settings.loss_type == "dr_grpo":
        # By its own length a long bad completion would lose less a token than a short one (Liu et al. 2025).
        return masked.sum() / (totals.rows * totals.max_completion_length)
    if settings.loss_type == "luspo":
        return masked.sum() / totals.rows
    return masked.sum() / max(totals.tokens, 1)  # bnpo, dapo, cispo, vespo


def _check(inputs: LossInputs, settings: LossSettings, entropy_coef: float) -> None:
    if settings.beta and inputs.reference is None and not settings.kl_in_reward:
        raise ValueError(f"beta={settings.beta} needs log-probabilities of the reference")
    if entropy_coef and inputs.entropy is None:
        raise ValueError(f"an entropy bonus of weight {entropy_coef} needs the entropy of each token")


def _prepare(inputs: LossInputs, settings: LossSettings) -> SurrogateInputs:
    """The inputs of the policy term; what is outside of the mask is 0 there."""
    # Filled and not multiplied by the mask: 0 * NaN is NaN, and padding may hold anything.
    mask = inputs.mask.bool()
    logprobs = inputs.logprobs.masked_fill(~mask, 0.0)
    # The ratio is then 1, with the gradient of log pi.
    old = logprobs.detach() if inputs.old is None else inputs.old.masked_fill(~mask, 0.0)
    log_ratio = logprobs - old
    ratio = log_ratio_at(log_ratio, mask, settings.importance_sampling_level, inputs.sentences).exp()
    advantages = inputs.advantages[:, None] if inputs.advantages.ndim == 1 else inputs.advantages
    token_advantages = inputs.advantages.ndim == 2
    return SurrogateInputs(logprobs, old, log_ratio, ratio, advantages, mask, inputs.is_ratio, token_advantages)


def _masked(
    term: torch.Tensor, inputs: LossInputs, prepared: SurrogateInputs, settings: LossSettings
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The policy term times masks and correction, and which completions the off-policy mask dropped."""
    dropped = None
    if settings.off_policy_mask_threshold is not None:
        behaviour = prepared.old if inputs.sampler is None else inputs.sampler.masked_fill(~prepared.mask, 0.0)
        kept = off_policy_mask(
            prepared.advantages, prepared.logprobs, behaviour, prepared.mask, settings.off_policy_mask_threshold
        )
        term, dropped = term * kept, ~kept
    if inputs.keep is not None:
        term = term * inputs.keep
    if inputs.is_ratio is not None and settings.loss_type != "vespo":
        # `vespo` has it in its weight of the whole completion already.
        term = term * inputs.is_ratio
    return term, dropped


def _divergence(reference: torch.Tensor, prepared: SurrogateInputs, settings: LossSettings) -> torch.Tensor:
    divergence = kl_divergence(prepared.logprobs, reference.masked_fill(~prepared.mask, 0.0), settings.kl_estimator)
    corrected = settings.use_bias_correction_kl and not settings.kl_in_reward
    return divergence * prepared.ratio if corrected else divergence


def _mean_part(values: torch.Tensor, mask: torch.Tensor, totals: StepTotals, *, whole: bool = False) -> torch.Tensor:
    """Part of a mean over the step's tokens, or over its ``whole`` completions, each of which has one value."""
    values = values.detach()
    if whole:
        return values.sum() / max(totals.rows, 1)
    return (values * mask).sum() / max(totals.tokens, 1)


def _min_max(averages: dict[str, torch.Tensor], mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """Smallest and largest share of clipped tokens in a completion."""
    if "clip_ratio/low_mean" not in averages:
        return {}
    empty = ~mask.any(1)
    low, high = (
        (averages[f"clip_ratio/{side}_mean"] * mask).sum(1) / mask.sum(1).clamp(min=1) for side in ("low", "high")
    )
    return {
        "clip_ratio/low_min": low.masked_fill(empty, torch.inf).amin(),
        "clip_ratio/high_max": high.masked_fill(empty, -torch.inf).amax(),
    }


# --- masks of completions and tokens ----------------------------------------------------------------------------------


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
    # NaN first: NaN * 0 is NaN.
    drift = (behaviour - logprobs.detach()).nan_to_num(nan=0.0) * mask
    mean = drift.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
    return (advantages >= 0) | (mean <= threshold)


def entropy_threshold(values: torch.Tensor, quantile: float) -> torch.Tensor:
    """Entropy from which on a token belongs to the top share (Wang et al. 2025, "Beyond the 80/20 rule", eq. 5).

    Args:
        values: (N,) entropies in nats of all completion tokens of the rollout batch, of all processes; without masked
            ones.
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
