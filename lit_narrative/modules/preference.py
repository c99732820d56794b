"""Learning from preferences without a reward model: DPO, IPO and KTO, on the scored completions that a task offers.

Dropout is off, in the policy as in its reference. A step's loss is the mean over its pairs, however they are cut into
micro-batches; but ``kto`` estimates the divergence on each micro-batch.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn
from torch.utils.data import DataLoader

from lit_narrative.distributed import gather, gather_lists
from lit_narrative.errors import UserError, check_least
from lit_narrative.lm.encoding import example_key
from lit_narrative.lm.logprobs import CompletionBatch, score_completions, to_rows
from lit_narrative.lm.shard import gathered
from lit_narrative.modules.base import as_settings
from lit_narrative.modules.referenced import ReferencedModule
from lit_narrative.modules.steps import StepLoader
from lit_narrative.rl.metrics import StepMetrics
from lit_narrative.rl.preferences import (
    PreferenceRow,
    PreferenceSettings,
    pair_losses,
    paired_rows,
    preference_metrics,
    preference_sums,
    unpaired_losses,
    unpaired_rows,
)
from lit_narrative.rl.reference import ReferenceSettings, reference_policy
from lit_narrative.rl.settings import RESUME_HINT
from lit_narrative.views import Example, Rows, Scored

PRECOMPUTED = "reference_logprobs"
"""Key of a checkpoint under which log-probabilities under the reference stand, where they are kept in its place."""


class PreferenceBatch(NamedTuple):
    """Completions to compare, and the optimizer step that they are a part of.

    Attributes:
        examples: m completions; of n pairs the n chosen ones, then the n rejected ones.
        beside: of single completions, those of other prompts; None of pairs.
        desirable: (m,) bool, which are to become likelier.
        keys: of all completions by their content, those of ``beside`` last.
        step_rows: pairs or completions of the step, over all its micro-batches and all processes; 0 in evaluation.
        last: whether it is the last one of the step on this process.
    """

    examples: CompletionBatch
    beside: CompletionBatch | None
    desirable: torch.Tensor
    keys: Rows[str]
    step_rows: int = 0
    last: bool = False

    @property
    def rows(self) -> int:
        """Pairs, or completions by themselves."""
        return len(self.desirable) // (2 if self.beside is None else 1)

    def of_step(self, step_rows: int, last: bool) -> "PreferenceBatch":
        """The same as a micro-batch of a step."""
        return self._replace(step_rows=step_rows, last=last)


class PreferenceModule(ReferencedModule):
    """Makes preferred completions likelier than others, and stays near to a reference (DPO, IPO, KTO).

    It reads the view ``scored``: pairs (a row with ``other``), and completions with scores, of which those of one
    prompt are compared. Metric names follow TRL. ``val/rewards/accuracies`` tells what was learned: the share of
    held-out pairs whose chosen completion gained more on the reference than the rejected one.

    Args:
        loss: which loss, and how dear it is to leave the reference.
        reference: the policy that this one is compared with; default: the model without its adapters with LoRA, else a
            frozen copy.
        precompute_reference: score every row under the reference once, before the first step, and keep the
            log-probabilities in place of a second model; a test then measures no rewards.
        pairs_per_prompt: pairs made of the completions of one prompt at most, those whose scores differ most.
        threshold: of ``kto``: the score from which on a completion is desirable; None: above the mean of its prompt's.
        **kwargs: of `LanguageModule`.

    Raises:
        UserError: the settings contradict each other.
    """

    view = eval_view = "scored"

    def __init__(
        self,
        loss: PreferenceSettings = PreferenceSettings(),  # noqa: B008 (the command line shows the default's fields)
        reference: ReferenceSettings = ReferenceSettings(),  # noqa: B008
        precompute_reference: bool = False,
        pairs_per_prompt: int = 1,
        threshold: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_least("model.pairs_per_prompt", pairs_per_prompt, 1)
        self.loss: PreferenceSettings = as_settings(loss, PreferenceSettings)
        if threshold is not None and self.loss.paired:
            raise UserError(f"model.threshold is of loss_type kto, and this is {self.loss.loss_type}; leave it out")
        if pairs_per_prompt != 1 and not self.loss.paired:
            raise UserError("model.pairs_per_prompt is not read with loss_type kto, which makes no pairs; leave it out")
        if self.lora and self.lora.dropout:
            raise UserError(f"model.lora.dropout={self.lora.dropout}: dropout is off here; leave it at 0")
        self.pairs_per_prompt, self.threshold = pairs_per_prompt, threshold
        self.reference_settings = self.take_reference(as_settings(reference, ReferenceSettings), True)
        self.reference_kind = self.reference_settings.resolve(self.loss.beta, self.lora is not None)
        self.precompute_reference = precompute_reference
        if precompute_reference:
            if self.reference_settings.sync_ref_model:
                raise UserError(
                    "model.precompute_reference keeps what the reference said once, and reference.sync_ref_model moves "
                    "it; leave one of them out"
                )
            if self.reference_settings.kind not in ("auto", "copy") and self.source.adapter is None:
                raise UserError(
                    f"model.precompute_reference needs no reference beside the policy, and reference.kind is "
                    f"'{self.reference_settings.kind}'; leave that out"
                )
            self.reference_kind = "copy" if self.reference_settings.model else "none"
        self._precomputed: dict[str, float] = {}
        self._step, self._held_out = StepMetrics(), StepMetrics()

    def setup(self, stage: str) -> None:
        """The reference is there in evaluation too: rewards are measured by it."""
        super().setup(stage)
        self.uses_reference = stage != "predict" and not self.precompute_reference
        self._step = StepMetrics()

    # --- rows -------------------------------------------------------------------------------------------------------

    def validate_rows(self, rows: Sequence[Any]) -> Sequence[Any]:
        """Pairs, or completions by themselves, made of scored ones; those that are too long as the settings say.

        Raises:
            UserError: there is nothing to compare, or a completion is too long and may not be left out or cut.
        """
        if not len(rows) or not isinstance(rows[0], Scored):
            return super().validate_rows(rows)
        made = paired_rows(rows, self.pairs_per_prompt) if self.loss.paired else unpaired_rows(rows, self.threshold)
        examples = [example for row in made for example in row.examples]
        usable = super().validate_rows(examples)
        if len(usable) == len(examples):
            return made
        known = {example_key(example) for example in usable}
        kept = [row for row in made if all(example_key(example) in known for example in row.examples)]
        if not kept:
            raise UserError("of every pair a completion is too long, and model.long_examples=drop leaves none")
        return kept

    def row_lengths(self, rows: Sequence[Any]) -> Sequence[int] | None:
        """Tokens of the longer one of both completions."""
        if not len(rows) or not isinstance(rows[0], PreferenceRow):
            return super().row_lengths(rows)
        lengths = self.example_reader().lengths([example for row in rows for example in row.examples])
        return [max(pair) for pair in zip(lengths[::2], lengths[1::2], strict=True)]

    def collate(self, rows: Sequence[Any]) -> Any:
        """Comparisons become one batch; rows of other views are collated as ever."""
        if not isinstance(rows[0], PreferenceRow):
            return super().collate(rows)
        first, second = [row.example for row in rows], [row.beside for row in rows]
        keys = Rows([example_key(example).hex() for example in (*first, *second)])
        reader = self.example_reader()
        if self.loss.paired:
            desirable = torch.arange(2 * len(rows)) < len(rows)
            return PreferenceBatch(reader.batch([*first, *second]), None, desirable, keys)
        desirable = torch.tensor([row.desirable for row in rows])
        return PreferenceBatch(reader.batch(first), reader.batch(second), desirable, keys)

    def wrap_train_loader(self, loader: DataLoader[Any]) -> Iterable[PreferenceBatch]:
        """Batches that know how much their optimizer step holds."""
        return StepLoader(loader, self.trainer, partial(gather, self), attrgetter("rows"), PreferenceBatch.of_step)

    # --- the reference ----------------------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        """Read all rows, and score them under the reference where that is done once."""
        super().on_fit_start()
        if self.precompute_reference and not self.trainer.ckpt_path:
            self._precompute([example for row in self._compared_rows() for example in row.examples])

    def _compared_rows(self) -> list[PreferenceRow]:
        """The rows of the fit, to learn from and to validate on."""
        rows = list(self.task.rows_for(self.view, "train"))
        return [*rows, *self.task.eval_rows("val")] if self.trainer.enable_validation else rows

    @torch.no_grad()
    def _precompute(self, examples: Sequence[Example]) -> None:
        """Score examples under the reference: the policy as the run begins, or another model, for this once."""
        keyed = {example_key(example).hex(): example for example in examples}
        new = [(key, example) for key, example in keyed.items() if key not in self._precomputed]
        with self._reference_once() as reference:
            lengths = self.example_reader().lengths([example for _, example in new])
            order = sorted(range(len(new)), key=lengths.__getitem__)[self.global_rank :: self.trainer.world_size]
            size, found = self.task.eval_batch_size or self.task.batch_size, []
            for start in range(0, len(order), size):
                rows = [new[number] for number in order[start : start + size]]
                batch = self.example_reader().batch([example for _, example in rows])
                scores = self._sequence_logprobs(reference, batch.to(self.device)).tolist()
                found += list(zip((key for key, _ in rows), scores, strict=True))
        self._precomputed.update(gather_lists(self.trainer, found))

    @contextmanager
    def _reference_once(self) -> Iterator[nn.Module]:
        """The reference for a while, whole on every process: these score different numbers of rows."""
        if self.reference_kind == "copy":
            self.uses_reference = True
            self.build_auxiliary()
            self.apply_sharding()
            self.reference.to(self.device)
        lm = self.reference_copy or self.lm
        try:
            with self.precision(), gathered(lm):
                yield lm
        finally:
            self._modules.pop("reference", None)
            self.uses_reference = False

    def _reference_logprobs(self, batch: CompletionBatch, keys: Sequence[str]) -> torch.Tensor | None:
        """(m,) log-probabilities under the reference; None where this stage has none."""
        if self.precompute_reference:
            if self.trainer.state.fn != TrainerFn.FITTING:  # of rows that may never have been scored
                return None
            return torch.tensor([self._precomputed[key] for key in keys], device=self.device)
        with torch.no_grad(), reference_policy(self.reference_kind, self.lm, self.reference_copy) as reference:
            return None if reference is None else self._sequence_logprobs(reference, batch)

    # --- learning ---------------------------------------------------------------------------------------------------

    def _sequence_logprobs(self, lm: nn.Module, batch: CompletionBatch) -> torch.Tensor:
        """(m,) log-probability of each completion, nats."""
        return to_rows(score_completions(lm, batch).logprobs, batch.targets).sum(1)

    def _compare(self, batch: PreferenceBatch) -> tuple[torch.Tensor | None, dict[str, torch.Tensor]]:
        """The loss of each pair or completion, (n,), and sums for metrics."""
        logprobs, keys = self._sequence_logprobs(self.lm, batch.examples), list(batch.keys)
        reference = self._reference_logprobs(batch.examples, keys[: len(logprobs)])
        if reference is None:
            divergence = None if self.loss.paired else logprobs.new_zeros(())
            sums = preference_sums(None, logprobs.detach(), None, batch.desirable, divergence, self.loss.beta)
            return None, sums
        log_ratios, divergence = logprobs - reference, None
        if batch.beside is None:
            lengths = batch.examples.targets.sum(1).view(2, -1)
            chosen, rejected = log_ratios.chunk(2)
            losses = pair_losses(chosen, rejected, lengths, self.loss)
        else:
            divergence = self._divergence(batch.beside, keys[len(logprobs) :])
            losses = unpaired_losses(log_ratios, batch.desirable, divergence, self.loss)
        sums = preference_sums(
            losses.detach(), logprobs.detach(), log_ratios.detach(), batch.desirable, divergence, self.loss.beta
        )
        return losses, sums

    @torch.no_grad()
    def _divergence(self, beside: CompletionBatch, keys: Sequence[str]) -> torch.Tensor:
        """Divergence from the reference on completions of other prompts; in training, over all processes."""
        reference = self._reference_logprobs(beside, keys)
        assert reference is not None
        mean = (self._sequence_logprobs(self.lm, beside) - reference).mean()
        # Not in evaluation, where one process may have a batch more than another, which would wait for it.
        return (gather(self, mean[None]).mean().to(mean) if self.trainer.training else mean).clamp(min=0)

    def training_step(self, batch: PreferenceBatch, batch_idx: int) -> torch.Tensor:
        """This micro-batch's part of the loss of its optimizer step."""
        losses, sums = self._compare(batch)
        assert losses is not None
        self._step.add(sums, {})
        if batch.last:
            metrics = preference_metrics(self._step.pop(partial(gather, self)), self.loss.paired)
            self.log("loss", metrics.pop("loss"), prog_bar=True, batch_size=1)
            self.log_dict(metrics, batch_size=1)
        # Lightning divides by the accumulated batches and the strategy averages over processes; the step's rows
        # already cover both.
        return losses.sum() / batch.step_rows * self.trainer.accumulate_grad_batches * self.trainer.world_size

    # --- evaluation -------------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Begin the sums anew."""
        super().on_validation_epoch_start()
        self._held_out = StepMetrics()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Compare held-out completions."""
        if isinstance(batch, PreferenceBatch):
            self._held_out.add(self._compare(batch)[1], {})

    def on_validation_epoch_end(self) -> None:
        """Log loss, rewards, their margins and accuracies, over all processes."""
        self._log_preferences("val")

    def on_test_epoch_end(self) -> None:
        """As in validation, under ``test/``."""
        self._log_preferences("test")

    def _log_preferences(self, stage: str) -> None:
        metrics = preference_metrics(self._held_out.pop(partial(gather, self)), self.loss.paired)
        self.log_dict({f"{stage}/{name}": value for name, value in metrics.items()}, prog_bar=True)

    # --- checkpoints ------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what the reference said, where it is not there itself."""
        super().on_save_checkpoint(checkpoint)
        if self.precompute_reference:
            checkpoint[PRECOMPUTED] = dict(self._precomputed)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up what the reference said.

        Raises:
            UserError: the fit resumes with other rows than those that were scored.
        """
        super().on_load_checkpoint(checkpoint)
        if self.precompute_reference:
            self._precomputed = dict(checkpoint.get(PRECOMPUTED, {}))

    def on_train_start(self) -> None:
        """Check that every row was scored under the reference, where it is not there itself.

        Raises:
            UserError: the fit resumes with other rows than those that were scored.
        """
        if not self.precompute_reference:
            return
        keys = (example_key(example).hex() for row in self._compared_rows() for example in row.examples)
        if any(key not in self._precomputed for key in keys):
            raise UserError(
                "model.precompute_reference: the checkpoint holds no log-probabilities of some rows under the "
                f"reference, and the policy is no longer it; {RESUME_HINT}"
            )
