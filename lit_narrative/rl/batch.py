"""Rollouts as tensors to learn from."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence

from lit_narrative.lm.logprobs import CompletionBatch, TokenScores, completion_batch, to_rows
from lit_narrative.rl.gae import ValueSettings, value_loss
from lit_narrative.rl.loss_settings import LossSettings
from lit_narrative.rl.losses import LossInputs, Window, policy_loss
from lit_narrative.views import Rollout

TOKENWISE = ("mask", "old", "reference", "sampler", "is_ratio", "sentences", "keep", "values", "returns")


class RolloutBatch(NamedTuple):
    """Scored completions: R rows, L longest prompt + completion, T longest completion.

    Attributes:
        batch: prompt and completion ids, (R, L).
        mask: (R, T) bool, true on completion tokens.
        counted: (R,) bool, false on rows that teach nothing (say, cut off) and still count as rows.
        old: (R, T) log-probabilities under the policy that sampled.
        advantages: (R,), or (R, T).
        window: totals of the optimizer step that this batch belongs to.
        fresh: the policy is still the one that sampled.
        reference: (R, T) under the reference; None if there is none.
        sampler: (R, T) as the sampler gave them, where ``old`` was computed again.
        is_ratio: (R, T) or (R, 1), weights that correct for the sampler.
        sentences: (R, T) number of each token's sentence, for ratios of sentences.
        keep: (R, T) bool, tokens that the policy term counts.
        values: (R, T) of the value head when the window was sampled.
        returns: (R, T) that the value head learns.
    """

    batch: CompletionBatch
    mask: torch.Tensor
    counted: torch.Tensor
    old: torch.Tensor
    advantages: torch.Tensor
    window: Window = Window(0, 0, 0, 0)
    fresh: bool = False
    reference: torch.Tensor | None = None
    sampler: torch.Tensor | None = None
    is_ratio: torch.Tensor | None = None
    sentences: torch.Tensor | None = None
    keep: torch.Tensor | None = None
    values: torch.Tensor | None = None
    returns: torch.Tensor | None = None

    @classmethod
    def of(cls, rollouts: Sequence[Rollout]) -> "RolloutBatch":
        """Rollouts side by side; nothing is known of their worth yet."""
        batch = completion_batch([r.prompt_ids for r in rollouts], [r.completion_ids for r in rollouts])
        old = pad_sequence([r.logprobs for r in rollouts], batch_first=True)
        lengths = torch.tensor([len(r.completion_ids) for r in rollouts])
        mask = torch.arange(old.shape[1]) < lengths[:, None]
        return cls(batch, mask, torch.ones(len(rollouts), dtype=torch.bool), old, torch.zeros(len(rollouts)))

    @property
    def learned(self) -> torch.Tensor:
        """(R, T) bool, the tokens that the loss counts."""
        return self.mask & self.counted[:, None]

    @property
    def completion_ids(self) -> torch.Tensor:
        """(R, T) int64, zeros on the right."""
        return torch.zeros_like(self.mask, dtype=torch.long).masked_scatter(
            self.mask, self.batch.ids[self.batch.targets]
        )

    def select(self, rows: torch.Tensor) -> "RolloutBatch":
        """The given rows, cut to their longest."""
        width = int(self.batch.targets[rows].any(0).nonzero().max()) + 1
        longest = int(self.mask[rows].sum(1).max())
        tokenwise = {name: value[rows, :longest] for name in TOKENWISE if (value := getattr(self, name)) is not None}
        advantages = self.advantages[rows]
        return self._replace(
            batch=CompletionBatch(self.batch.ids[rows, :width], self.batch.targets[rows, :width]),
            counted=self.counted[rows],
            advantages=advantages if advantages.ndim == 1 else advantages[:, :longest],
            **tokenwise,
        )

    def loss_inputs(self, logprobs: torch.Tensor, entropy: torch.Tensor) -> LossInputs:
        """What the loss is made of, given (R, T) scores of the policy."""
        return LossInputs(
            logprobs=logprobs,
            old=self.old,
            mask=self.learned,
            advantages=self.advantages,
            reference=self.reference,
            entropy=entropy,
            sampler=self.sampler,
            is_ratio=self.is_ratio,
            sentences=self.sentences,
            keep=self.keep,
        )

    def by_length(self, size: int) -> Iterator[torch.Tensor]:
        """Row numbers of parts of at most ``size`` rows, alike lengths together."""
        yield from self.mask.sum(1).argsort(stable=True).split(size)

    def deal(self, steps: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
        """Row numbers for each of ``steps`` optimizer steps: dealt at random, then sorted by length to pad little."""
        lengths = self.mask.sum(1)
        for rows in torch.randperm(len(lengths), generator=generator).tensor_split(steps):
            yield rows[lengths[rows].argsort(stable=True)]

    def as_dict(self) -> dict[str, Any]:
        """Plain values and tensors, for a checkpoint."""
        return {**self._asdict(), "batch": tuple(self.batch), "window": tuple(self.window)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "RolloutBatch":
        """Undo :meth:`as_dict`."""
        return cls(**{**values, "batch": CompletionBatch(*values["batch"]), "window": Window(*values["window"])})


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
