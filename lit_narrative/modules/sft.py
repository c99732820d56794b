"""Supervised fine-tuning: imitate the completions of a task's examples."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from lit_narrative.distributed import gather
from lit_narrative.lm.checkpoint import keep_policy
from lit_narrative.lm.logprobs import CompletionBatch, score_completions
from lit_narrative.modules.language import LanguageModule
from lit_narrative.progress import batches_begun


class StepBatch(NamedTuple):
    """A micro-batch of an optimizer step: a :class:`CompletionBatch`, and what it is a part of.

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


class StepLoader:
    """Micro-batches with the number of tokens in their optimizer step, for which it reads a step ahead.

    Args:
        loader: the task's.
        trainer: which accumulates them.
        gather: puts the (1,) counts of all processes together, (W,).
    """

    def __init__(
        self, loader: DataLoader[Any], trainer: Trainer, gather: Callable[[torch.Tensor], torch.Tensor]
    ) -> None:
        self.loader, self.trainer, self.gather = loader, trainer, gather
        self.sampler = loader.sampler  # Lightning looks for this name, to set the epoch on it
        # Its place in the epoch, for checkpoints, is the task's loader's.
        self.state_dict, self.load_state_dict = loader.state_dict, loader.load_state_dict  # type: ignore[attr-defined]

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[StepBatch]:
        # Now and not with the first batch: it draws a random number, which a resumed run has drawn before it restores
        # the random state.
        return self._batches(iter(self.loader))

    def _batches(self, batches: Iterator[CompletionBatch]) -> Iterator[StepBatch]:
        begun = batches_begun(self.trainer)
        while True:
            # Lightning makes a step with every so many batches, counted from the start of the epoch, and with the last.
            size = self.trainer.accumulate_grad_batches - begun % self.trainer.accumulate_grad_batches
            step = list(islice(batches, min(size, int(self.trainer.num_training_batches) - begun)))
            if not step:
                return
            tokens = int(self.gather(torch.tensor([sum(int(batch.targets.sum()) for batch in step)])).sum())
            for number, batch in enumerate(step, 1):
                yield StepBatch(batch.ids, batch.targets, batch.injections, tokens, last=number == len(step))
            begun += len(step)


class SFTModule(LanguageModule):
    """Mean negative log-likelihood of completion tokens; the prompt is read but not imitated.

    The mean is over all tokens of an optimizer step: its gradient does not depend on how the step is cut into
    micro-batches (``accumulate_grad_batches``) and spread over processes.

    Its arguments are those of :class:`LanguageModule`.
    """

    view = "examples"
    _loss: torch.Tensor | float = 0.0

    def wrap_train_loader(self, loader: DataLoader[Any]) -> Iterable[StepBatch]:
        """Batches that know how much their optimizer step holds."""
        return StepLoader(loader, self.trainer, partial(gather, self))

    def on_train_start(self) -> None:
        """The first step begins."""
        self._loss = 0.0

    def training_step(self, batch: StepBatch, batch_idx: int) -> torch.Tensor:
        """This micro-batch's part of the loss of its optimizer step, in nats per token."""
        loss = -score_completions(self.lm, batch.examples).logprobs.sum() / batch.step_tokens
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
