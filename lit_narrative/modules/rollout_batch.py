"""Rollouts as tensors to learn from."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence

from lit_narrative.lm.logprobs import CompletionBatch, completion_batch
from lit_narrative.rl.losses import Window
from lit_narrative.rl.rollout import Rollout


class RolloutBatch(NamedTuple):
    """Scored completions: R rows, L longest prompt + completion, T longest completion.

    Attributes:
        batch: prompt and completion ids, (R, L).
        mask: (R, T) bool, true on completion tokens.
        old: (R, T) log-probabilities under the policy that sampled.
        reference: (R, T) under the reference; None if the loss needs none.
        advantages: (R,).
        window: totals of the optimizer step that this batch belongs to.
    """

    batch: CompletionBatch
    mask: torch.Tensor
    old: torch.Tensor
    reference: torch.Tensor | None
    advantages: torch.Tensor
    window: Window

    @classmethod
    def of(cls, rollouts: Sequence[Rollout], advantages: torch.Tensor) -> "RolloutBatch":
        """Rollouts side by side, without reference and totals yet."""
        batch = completion_batch([r.prompt_ids for r in rollouts], [r.completion_ids for r in rollouts])
        old = pad_sequence([r.logprobs for r in rollouts], batch_first=True)
        lengths = torch.tensor([len(r.completion_ids) for r in rollouts])
        mask = torch.arange(old.shape[1]) < lengths[:, None]
        return cls(batch, mask, old, None, advantages, Window(0, 0))

    def select(self, rows: torch.Tensor) -> "RolloutBatch":
        """The given rows, cut to their longest."""
        width = int(self.batch.targets[rows].any(0).nonzero().max()) + 1
        longest = int(self.mask[rows].sum(1).max())
        return RolloutBatch(
            CompletionBatch(self.batch.ids[rows, :width], self.batch.targets[rows, :width]),
            self.mask[rows, :longest],
            self.old[rows, :longest],
            None if self.reference is None else self.reference[rows, :longest],
            self.advantages[rows],
            self.window,
        )

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
