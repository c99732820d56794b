"""Micro-batches that know the optimizer step that they are a part of, so that its loss does not depend on the cut."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from lit_narrative.progress import batches_begun


class StepLoader:
    """Micro-batches with the total of what is counted in their optimizer step, for which it reads a step ahead.

    Args:
        loader: the task's.
        trainer: which accumulates them.
        gather: puts the (1,) counts of all processes together, (W,).
        count: of a micro-batch, such as the tokens that it learns from.
        mark: (micro-batch, total of its step over all processes, whether it is the step's last here) -> what is read.
    """

    def __init__(
        self,
        loader: DataLoader[Any],
        trainer: Trainer,
        gather: Callable[[torch.Tensor], torch.Tensor],
        count: Callable[[Any], int],
        mark: Callable[[Any, int, bool], Any],
    ) -> None:
        self.loader, self.trainer, self.gather, self.count, self.mark = loader, trainer, gather, count, mark
        self.sampler = loader.sampler  # Lightning looks for this name, to set the epoch on it
        # Its place in the epoch, for checkpoints, is the task's loader's.
        self.state_dict, self.load_state_dict = loader.state_dict, loader.load_state_dict  # type: ignore[attr-defined]

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        # Now and not with the first batch: it draws a random number, which a resumed run has drawn before it restores
        # the random state.
        return self._batches(iter(self.loader))

    def _batches(self, batches: Iterator[Any]) -> Iterator[Any]:
        begun = batches_begun(self.trainer)
        while True:
            # Lightning makes a step with every so many batches, counted from the start of the epoch, and with the last.
            size = self.trainer.accumulate_grad_batches - begun % self.trainer.accumulate_grad_batches
            step = list(islice(batches, min(size, int(self.trainer.num_training_batches) - begun)))
            if not step:
                return
            total = int(self.gather(torch.tensor([sum(map(self.count, step))])).sum())
            for number, batch in enumerate(step, 1):
                yield self.mark(batch, total, number == len(step))
            begun += len(step)
