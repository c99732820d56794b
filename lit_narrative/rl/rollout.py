"""A rollout: one sampled completion, as the sampler made it; and a window of them with their scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch


@dataclass(frozen=True, slots=True, eq=False)
class Rollout:
    """One completion of one prompt.

    Attributes:
        prompt_ids: (prompt_length,) int64.
        completion_ids: (length,) int64, the sampled ids themselves, the end token included; never re-tokenised.
        logprobs: (length,) float32, log-probability of each sampled id under the sampling distribution, in nats.
        finished: whether the policy ended the text itself (False: it ran out of tokens).
        text: the decoded completion without special tokens.
        prompt: the prompt's text.
        columns: what the prompt carries for the rewards.
        group: index of the prompt within its batch; rollouts of one group share a prompt.
    """

    prompt_ids: torch.Tensor
    completion_ids: torch.Tensor
    logprobs: torch.Tensor
    finished: bool
    text: str
    prompt: str = ""
    columns: Mapping[str, Any] = field(default_factory=dict)
    group: int = 0

    def to(self, device: torch.device) -> "Rollout":
        """The same rollout with its tensors on ``device``; Lightning asks for it when it collects predictions."""
        tensors = {name: getattr(self, name).to(device) for name in ("prompt_ids", "completion_ids", "logprobs")}
        return replace(self, **tensors)


@dataclass(frozen=True, slots=True, eq=False)
class ScoredRollouts:
    """The rollouts of one window on one process, as they were scored.

    Attributes:
        epoch: the cycle.
        number: the window within the cycle.
        rollouts: R of them, groups one after another.
        rewards: by name, (R,); NaN where a reward could not score.
        totals: (R,) weighted sums.
        advantages: (R,).
    """

    epoch: int
    number: int
    rollouts: Sequence[Rollout]
    rewards: Mapping[str, torch.Tensor]
    totals: torch.Tensor
    advantages: torch.Tensor
