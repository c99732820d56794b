"""A micro-batch's part of an optimizer step: what is differentiated, and what is logged."""

from typing import NamedTuple

import torch

from lit_narrative.lm.logprobs import TokenScores, to_rows
from lit_narrative.modules.rollout_batch import RolloutBatch
from lit_narrative.rl.gae import ValueSettings, value_loss
from lit_narrative.rl.loss_settings import LossSettings
from lit_narrative.rl.losses import policy_loss


class StepLoss(NamedTuple):
    """The micro-batch's share of the loss, and of what :class:`StepMetrics` adds up."""

    loss: torch.Tensor
    shares: dict[str, torch.Tensor]
    extremes: dict[str, torch.Tensor]


def step_loss(
    batch: RolloutBatch, scores: TokenScores, settings: LossSettings, value: ValueSettings, *, entropy_coef: float
) -> StepLoss:
    """Loss of the policy, and with scores of a value head its loss too.

    Args:
        batch: R completions.
        scores: what the policy says of them now, with gradient.
        settings: of the policy's loss.
        value: of the value head's.
        entropy_coef: weight of the entropy bonus in this step.
    """
    logprobs, entropy = to_rows(scores.logprobs, batch.mask), to_rows(scores.entropy, batch.mask)
    output = policy_loss(batch.loss_inputs(logprobs, entropy), batch.window, settings, entropy_coef=entropy_coef)
    loss, shares, extremes = output.loss, dict(output.metrics), dict(output.extremes)
    if scores.values is not None:
        assert batch.values is not None and batch.returns is not None
        values = to_rows(scores.values, batch.mask)
        error, clipped = value_loss(
            values, batch.values, batch.returns, batch.learned, batch.window.tokens, value.value_clip
        )
        loss = loss + value.value_loss_weight * error
        shares |= {"value_loss": error, "value_clip_ratio": clipped}
    if batch.fresh and batch.sampler is None:  # the policy has not moved: what differs is how it was computed
        drift = (logprobs.detach() - batch.old).abs() * batch.learned
        shares["sampling/sampling_logp_difference/mean"] = drift.sum() / max(batch.window.tokens, 1)
        extremes["sampling/sampling_logp_difference/max"] = drift.max()
    return StepLoss(loss, {"loss": loss, **shares}, extremes)
