"""The loader that writes its own data: completions of the current policy, scored and cut into micro-batches.

An epoch is a cycle. For each batch of prompts the loader asks its module for a *window* of scored completions and
yields micro-batches of it, ``num_iterations`` times over. It has a length, so that the Trainer does not prefetch: an
unsized loader would train every step on completions of the policy before the last update.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any, Protocol

from torch.utils.data import DataLoader

from lit_narrative.rl.batch import RolloutBatch
from lit_narrative.rl.settings import WindowPlan
from lit_narrative.views import Prompt


class RolloutSource(Protocol):
    """What a loader asks of its algorithm."""

    plan: WindowPlan
    trainer: Any

    def window(self, prompts: list[Prompt], number: int, resumed: bool) -> RolloutBatch:
        """Completions for window ``number`` of this epoch, or those of the interrupted one."""

    def cut(self, rollouts: RolloutBatch, number: int, iteration: int) -> list[RolloutBatch]:
        """One pass of micro-batches over a window."""


class RolloutLoader:
    """Iterates over micro-batches of fresh rollouts.

    Args:
        prompts: the task's loader; a batch of it is the prompts of one window.
        source: the algorithm, whose policy samples.
    """

    def __init__(self, prompts: DataLoader[Prompt], source: RolloutSource) -> None:
        self.prompts, self.source = prompts, source
        self.sampler = prompts.sampler  # Lightning sets the epoch on it

    @property
    def batches_per_window(self) -> int:
        """Micro-batches that one window yields, over all its passes."""
        return self.source.plan.micro_batches(int(self.prompts.batch_size or 1)) * self.source.plan.num_iterations

    def __len__(self) -> int:
        return len(self.prompts) * self.batches_per_window

    def __iter__(self) -> Iterator[RolloutBatch]:
        # Lightning counts the batches of this epoch that are done; resumed in mid-epoch, that is where to go on.
        done = self.source.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        first, offset = divmod(done, self.batches_per_window)
        for number, prompts in enumerate(islice(iter(self.prompts), first, None), first):
            rollouts = self.source.window(prompts, number, resumed=offset > 0)
            passes = range(self.source.plan.num_iterations)
            batches = (batch for iteration in passes for batch in self.source.cut(rollouts, number, iteration))
            yield from islice(batches, offset, None)
            offset = 0


def begin_step_again(loops: dict[str, Any], accumulate: int) -> None:
    """Let a resumed run begin its optimizer step anew, where the checkpoint was saved between its micro-batches.

    The gradients so far are not in the checkpoint; the window is, so the step comes out the same.

    Args:
        loops: of a Lightning checkpoint; changed in place.
        accumulate: micro-batches of an optimizer step.
    """
    progress = loops["fit_loop"]["epoch_loop.batch_progress"]
    unfinished = progress["current"]["ready"] % accumulate
    for counts in (progress["current"], progress["total"]):
        for name in counts:
            counts[name] -= unfinished
