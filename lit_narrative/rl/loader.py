"""The loader whose data is made as it is read: completions of the current policy, scored, in micro-batches.

An epoch is a cycle. For each batch of prompts the loader asks its source for a rollout batch and yields micro-batches
of it, ``num_iterations`` times over.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, islice, pairwise
from typing import Protocol

from torch.utils.data import DataLoader

from lit_narrative.rl.batch import RolloutBatch
from lit_narrative.rl.settings import BatchPlan, check_sizes
from lit_narrative.views import Prompt


class RolloutSource(Protocol):
    """An algorithm whose policy samples what it learns from."""

    @property
    def plan(self) -> BatchPlan:
        """Sizes of a rollout batch."""

    def rollout_batch(
        self, prompts: Sequence[Prompt], number: int, resumed: bool, following: Sequence[Prompt] | None
    ) -> RolloutBatch:
        """Rollout batch ``number`` of this epoch; if ``resumed``, the one that was interrupted.

        ``following`` are the prompts of the next one, None behind the last.
        """

    def split_minibatches(self, rollouts: RolloutBatch, number: int, iteration: int) -> list[RolloutBatch]:
        """Micro-batches of one pass over rollout batch ``number``."""


class RolloutLoader:
    """Iterates over micro-batches of fresh rollouts.

    Args:
        prompts: the task's loader; a batch of it is the prompts of one rollout batch.
        source: the algorithm.
        sizes: by which rollouts are split into batches, by name.
        batches_resumed: micro-batches of this epoch that were learned from already, as the epoch begins; not 0 in a run
            that was resumed in the middle of one.
        batches: micro-batches of this epoch at most, where the Trainer ends it earlier than the prompts do.
    """

    def __init__(
        self,
        prompts: DataLoader[Prompt],
        source: RolloutSource,
        sizes: Mapping[str, int],
        batches_resumed: Callable[[], int],
        batches: Callable[[], float],
    ) -> None:
        self.prompts, self.source, self.sizes = prompts, source, sizes
        self.batches_resumed, self.batches = batches_resumed, batches
        self.sampler = prompts.sampler  # Lightning looks for this name, to set the epoch on it

    @property
    def batches_per_rollout(self) -> int:
        """Micro-batches that one rollout batch yields, over all its passes."""
        return self.source.plan.micro_batches(int(self.prompts.batch_size or 1)) * self.source.plan.num_iterations

    def __len__(self) -> int:
        # With a length the Trainer knows which batch is the last. From a loader without one it fetches a batch ahead to
        # find out, and each rollout batch would be sampled by the policy of before the last update.
        return len(self.prompts) * self.batches_per_rollout

    def state_dict(self) -> dict[str, dict[str, int]]:
        """The sizes: Lightning keeps them in checkpoints. Its own counts tell the place in the epoch."""
        return {"sizes": dict(self.sizes)}

    def load_state_dict(self, state: Mapping[str, Mapping[str, int]]) -> None:
        """Go on at the place of a checkpoint.

        Raises:
            UserError: it is within an epoch, and the sizes are others.
        """
        if self.batches_resumed():
            check_sizes(state["sizes"], self.sizes)

    def __iter__(self) -> Iterator[RolloutBatch]:
        first, offset = divmod(self.batches_resumed(), self.batches_per_rollout)
        rows = chain(islice(iter(self.prompts), first, None), [None])
        for number, (prompts, following) in enumerate(pairwise(rows), first):
            assert prompts is not None
            last = (number + 1) * self.batches_per_rollout >= self.batches()
            rollouts = self.source.rollout_batch(prompts, number, offset > 0, None if last else following)
            # A pass is split when it begins, so the micro-batches of one pass are in memory at a time.
            passes = range(self.source.plan.num_iterations)
            batches = (batch for n in passes for batch in self.source.split_minibatches(rollouts, number, n))
            yield from islice(batches, offset, None)
            offset = 0  # only the first rollout batch after a resume was begun before
