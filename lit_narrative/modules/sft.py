"""Supervised fine-tuning: imitate the completions of a task's examples."""

from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from lit_narrative.distributed import gather
from lit_narrative.errors import UserError, check_least
from lit_narrative.lm.checkpoint import keep_policy
from lit_narrative.lm.fast.packed_forward import supports_packing
from lit_narrative.lm.load import Lora, ScratchModel, base_lm
from lit_narrative.lm.logprobs import CompletionBatch, score_completions
from lit_narrative.lm.tokenizer import TrainedTokenizer
from lit_narrative.lm.vectors.inject import describe_injector
from lit_narrative.modules.language import LanguageModule
from lit_narrative.modules.steps import StepLoader


class StepBatch(NamedTuple):
    """A micro-batch of an optimizer step: a `CompletionBatch`, and what it is a part of.

    Attributes:
        ids: of the examples, and so ``targets`` and ``injections``.
        step_tokens: completion tokens of the step, over all its micro-batches and all processes.
        last: whether it is the last one of the step on this process.
    """

    ids: torch.Tensor
    targets: torch.Tensor
    injections: torch.Tensor | None
    step_tokens: int
    last: bool

    @property
    def examples(self) -> CompletionBatch:
        """The micro-batch by itself."""
        return CompletionBatch(self.ids, self.targets, self.injections)

    @classmethod
    def of(cls, batch: CompletionBatch, step_tokens: int, last: bool) -> "StepBatch":
        """A micro-batch of a step."""
        return cls(batch.ids, batch.targets, batch.injections, step_tokens, last)


class SFTModule(LanguageModule):
    """Mean negative log-likelihood of completion tokens; the prompt is read but not imitated.

    The mean is over all tokens of an optimizer step: its gradient does not depend on how the step is cut into
    micro-batches (``accumulate_grad_batches``) and spread over processes.

    Args:
        model: of `LanguageModule`, as the following two.
        tokenizer: of the model.
        lora: adapters.
        packing: read the examples of a micro-batch side by side in rows of that many tokens at most, with a mask that
            keeps them apart, so that little is computed on padding; the loss is the same. None: one a row.
        **kwargs: of `LanguageModule`.

    Raises:
        UserError: ``packing`` is below 2, or stands beside vectors to inject.
    """

    view = "examples"
    _loss: torch.Tensor | float = 0.0

    def __init__(
        self,
        model: str | ScratchModel = ScratchModel(),  # noqa: B008 (the command line shows the default's fields)
        tokenizer: str | TrainedTokenizer | None = None,
        lora: Lora | None = None,
        packing: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(model, tokenizer, lora, **kwargs)
        check_least("model.packing", packing, 2)
        self.packing = packing

    def set_model(self, lm: nn.Module, tokenizer: PreTrainedTokenizerBase) -> None:
        """Take a policy.

        Raises:
            UserError: the examples are to be packed, and the model cannot keep them apart.
        """
        if self.packing is not None:
            base, remove = base_lm(lm), "leave model.packing out"
            if describe_injector(lm):
                raise UserError(f"model.packing: the model reads injected vectors, which rows cannot share; {remove}")
            if not supports_packing(base.eval()):
                kind = base.config.model_type
                raise UserError(f"models of type '{kind}' do not keep packed examples apart; {remove}")
        super().set_model(lm, tokenizer)

    def wrap_train_loader(self, loader: DataLoader[Any]) -> Iterable[StepBatch]:
        """Batches that know how much their optimizer step holds."""
        return StepLoader(loader, self.trainer, partial(gather, self), _tokens, StepBatch.of)

    def on_train_start(self) -> None:
        """The first step begins."""
        self._loss = 0.0

    def training_step(self, batch: StepBatch, batch_idx: int) -> torch.Tensor:
        """This micro-batch's part of the loss of its optimizer step, in nats per token."""
        scores = score_completions(self.lm, batch.examples, packing=self.packing)
        loss = -scores.logprobs.sum() / batch.step_tokens
        self._loss = self._loss + loss.detach()
        if batch.last:
            self.log("loss", gather(self, torch.as_tensor(self._loss)[None]).sum(), prog_bar=True, batch_size=1)
            self._loss = 0.0
        # Lightning divides by the accumulated batches and the strategy averages over processes; the step's tokens
        # already cover both.
        return loss * self.trainer.accumulate_grad_batches * self.trainer.world_size

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the policy alone from a checkpoint of reinforcement learning, not its reference or value head."""
        # Weights that this module lacks would fail the strict loading.
        keep_policy(checkpoint["state_dict"])
        super().on_load_checkpoint(checkpoint)


def _tokens(batch: CompletionBatch) -> int:
    """Completion tokens of a micro-batch."""
    return int(batch.targets.sum())
