"""Rollouts as tensors to learn from: laid out, split into micro-batches, and the loss of one of them.

Notation: R completions, L longest prompt + completion, T longest completion. Of several turns a completion is what the
policy wrote in all of them: observations stand in the (R, L) ids, and nowhere among the (R, T).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence

from lit_narrative.lm.grammar import join_masks
from lit_narrative.lm.logprobs import CompletionBatch, TokenScores, completion_batch, to_rows
from lit_narrative.rl.gae import ValueSettings, value_loss
from lit_narrative.rl.loss_settings import LossSettings
from lit_narrative.rl.losses import LossInputs, StepTotals, policy_loss
from lit_narrative.views import Rollout, TokenMasks

OLD_FIELDS = {"counted": "row_mask", "window": "totals"}
"""Names of fields in older checkpoints, and their names today."""
TOKENWISE = ("mask", "old", "reference", "sampler", "is_ratio", "sentences", "keep", "values", "returns")


class RolloutBatch(NamedTuple):
    """Scored completions of one process.

    Attributes:
        batch: prompt and completion ids, (R, L).
        mask: (R, T) bool, true on completion tokens.
        row_mask: (R,) bool, false on rows that teach nothing (say, cut off) and still count as rows.
        old: (R, T) log-probabilities under the policy that sampled, nats.
        advantages: (R,), or (R, T).
        totals: of the optimizer step that this micro-batch belongs to.
        fresh: the policy is still the one that sampled.
        reference: (R, T) log-probabilities under the reference; None if there is none.
        sampler: (R, T) as the sampler gave them, where ``old`` was computed again.
        is_ratio: (R, T) or (R, 1), weights that correct for the sampler.
        sentences: (R, T) number of each token's sentence, for ratios of sentences.
        keep: (R, T) bool, tokens of the top-entropy mask, which the policy term keeps.
        values: (R, T) of the value head when the completions were sampled.
        returns: (R, T) that the value head learns.
    """

    batch: CompletionBatch
    mask: torch.Tensor
    row_mask: torch.Tensor
    old: torch.Tensor
    advantages: torch.Tensor
    totals: StepTotals = StepTotals(0, 0, 0, 0)
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
        """Rollouts side by side; their advantages are 0 until they are computed."""
        batch = completion_batch(
            [r.prompt_ids for r in rollouts],
            [r.completion_ids for r in rollouts],
            [r.injection for r in rollouts],
            [r.turns for r in rollouts],
        )
        batch = batch._replace(masks=join_masks([r.masks for r in rollouts]))
        old = pad_sequence([r.logprobs for r in rollouts], batch_first=True)
        lengths = torch.tensor([len(r.completion_ids) for r in rollouts])
        mask = torch.arange(old.shape[1]) < lengths[:, None]
        return cls(batch, mask, torch.ones(len(rollouts), dtype=torch.bool), old, torch.zeros(len(rollouts)))

    @property
    def loss_mask(self) -> torch.Tensor:
        """(R, T) bool, the tokens that the loss counts."""
        return self.mask & self.row_mask[:, None]

    @property
    def completion_ids(self) -> torch.Tensor:
        """(R, T) int64, zeros on the right."""
        # Boolean indexing reads row by row, and `masked_scatter` writes in that same order.
        return torch.zeros_like(self.mask, dtype=torch.long).masked_scatter(
            self.mask, self.batch.ids[self.batch.targets]
        )

    def select(self, rows: torch.Tensor) -> "RolloutBatch":
        """The given rows, with no more columns than their longest needs."""
        # Columns behind the last target are padding up to longer rows, which are not among these.
        width = int(self.batch.targets[rows].any(0).nonzero().max()) + 1
        longest = int(self.mask[rows].sum(1).max())
        tokenwise = {name: value[rows, :longest] for name in TOKENWISE if (value := getattr(self, name)) is not None}
        advantages = self.advantages[rows]
        return self._replace(
            batch=self.batch.select(rows, width),
            row_mask=self.row_mask[rows],
            advantages=advantages if advantages.ndim == 1 else advantages[:, :longest],
            **tokenwise,
        )

    def loss_inputs(self, logprobs: torch.Tensor, entropy: torch.Tensor | None = None) -> LossInputs:
        """Inputs of the policy loss, given (R, T) log-probabilities and entropies of the policy now."""
        return LossInputs(
            logprobs=logprobs,
            old=self.old,
            mask=self.loss_mask,
            advantages=self.advantages,
            reference=self.reference,
            entropy=entropy,
            sampler=self.sampler,
            is_ratio=self.is_ratio,
            sentences=self.sentences,
            keep=self.keep,
        )

    def by_length(self, size: int) -> Iterator[torch.Tensor]:
        """Row numbers of parts of at most ``size`` rows, similar lengths together so that little is padded."""
        # Stable: an unstable sort may order equal lengths differently on another device.
        yield from self.mask.sum(1).argsort(stable=True).split(size)

    def shuffle_rows(self, steps: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
        """Row numbers of each of ``steps`` optimizer steps: chosen at random, then sorted by length to pad little."""
        lengths = self.mask.sum(1)
        # Lengths order the rows within a step only; by length, whole steps would learn from short completions alone.
        for rows in torch.randperm(len(lengths), generator=generator).tensor_split(steps):
            yield rows[lengths[rows].argsort(stable=True)]

    def as_dict(self) -> dict[str, Any]:
        """Plain values and tensors, which a checkpoint read with ``weights_only`` may hold."""
        batch = [
            None if part is None else part if isinstance(part, torch.Tensor) else tuple(part) for part in self.batch
        ]
        return {**self._asdict(), "batch": batch, "totals": tuple(self.totals)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "RolloutBatch":
        """Undo `as_dict`; older names of fields are understood."""
        fields = {OLD_FIELDS.get(name, name): value for name, value in values.items()}
        batch, totals = CompletionBatch(*fields.pop("batch")), StepTotals(*fields.pop("totals"))
        batch = batch._replace(masks=None if batch.masks is None else TokenMasks(*batch.masks))
        return cls(batch=batch, totals=totals, **fields)


def split_minibatches(
    rollouts: RolloutBatch,
    steps: int,
    parts: int,
    *,
    generator: torch.Generator,
    gather: Callable[[torch.Tensor], torch.Tensor],
    max_completion_length: int,
    first_pass: bool,
) -> list[RolloutBatch]:
    """Micro-batches of one pass over a rollout batch, each with the totals of its optimizer step.

    Args:
        rollouts: those of this process.
        steps: optimizer steps of the pass.
        parts: micro-batches of each.
        generator: of the order of rows.
        gather: puts the (1, ...) rows of all processes together, (W, ...).
        max_completion_length: the constant length of ``dr_grpo``.
        first_pass: the policy has not learned from these rollouts yet.
    """
    loss_mask = rollouts.loss_mask
    entropy_mask = loss_mask if rollouts.keep is None else loss_mask & rollouts.keep
    shuffled = list(rollouts.shuffle_rows(steps, generator))
    masks = (loss_mask, entropy_mask, rollouts.mask)
    counts = [[len(rows), *(int(mask[rows].sum()) for mask in masks)] for rows in shuffled]
    # The totals of all processes are known before the first backward pass: a loss divided by its own micro-batch's
    # tokens, as is common, would weigh a token by how the rows happen to be split.
    totals: list[list[int]] = gather(torch.tensor(counts)[None]).sum(0).tolist()
    batches: list[RolloutBatch] = []
    for rows, (count, tokens, entropy_tokens, all_tokens) in zip(shuffled, totals, strict=True):
        # Fresh until the first optimizer step of the first pass: from then on the policy is not the one that sampled.
        step_totals = StepTotals(count, tokens, entropy_tokens, max_completion_length, all_tokens)
        step = rollouts._replace(totals=step_totals, fresh=first_pass and not batches)
        batches += [step.select(part) for part in rows.tensor_split(parts)]
    return batches


class StepLoss(NamedTuple):
    """A micro-batch's part of the loss of its optimizer step, and of the step's metrics.

    Attributes:
        loss: scalar with gradient; parts are summed.
        sums: scalars that are summed over micro-batches and processes.
        min_max: scalars named ``…min`` or ``…max``, combined by that.
    """

    loss: torch.Tensor
    sums: dict[str, torch.Tensor]
    min_max: dict[str, torch.Tensor]


def step_loss(
    batch: RolloutBatch,
    scores: TokenScores,
    settings: LossSettings,
    value: ValueSettings,
    *,
    entropy_coef: float,
    distillation_weight: float = 1.0,
) -> StepLoss:
    """Loss of the policy on a micro-batch, of the value head and of distillation where they are.

    Args:
        batch: R completions.
        scores: of their tokens under the policy now, with gradient.
        settings: of the policy's loss.
        value: of the value head's.
        entropy_coef: weight of the entropy bonus in this step.
        distillation_weight: of the mean divergence from the teacher, where the scores have it.
    """
    logprobs = to_rows(scores.logprobs, batch.mask)
    entropy = None if scores.entropy is None else to_rows(scores.entropy, batch.mask)
    output = policy_loss(batch.loss_inputs(logprobs, entropy), batch.totals, settings, entropy_coef=entropy_coef)
    loss, sums, min_max = output.loss, dict(output.sums), dict(output.min_max)
    if scores.values is not None:
        assert batch.values is not None and batch.returns is not None
        values = to_rows(scores.values, batch.mask)
        error, clipped = value_loss(
            values, batch.values, batch.returns, batch.loss_mask, batch.totals.tokens, value.value_clip
        )
        loss = loss + value.value_loss_weight * error
        sums |= {"value_loss": error, "value_clip_ratio": clipped}
    if scores.divergence is not None:
        # Its own denominator: a completion that the policy loss masks is the policy's own writing all the same.
        divergence = scores.divergence.sum() / max(batch.totals.completion_tokens, 1)
        loss = loss + distillation_weight * divergence
        sums["distillation"] = divergence.detach()
    if batch.fresh and batch.sampler is None:  # the policy has not moved: what differs is how it was computed
        drift = (logprobs.detach() - batch.old).abs() * batch.loss_mask
        sums["sampling/sampling_logp_difference/mean"] = drift.sum() / max(batch.totals.tokens, 1)
        min_max["sampling/sampling_logp_difference/max"] = drift.max()
    return StepLoss(loss, {"loss": loss, **sums}, min_max)
