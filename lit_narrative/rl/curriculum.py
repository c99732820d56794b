"""Prompts that teach come again: a share of each rollout batch is drawn by how much the rewards of a prompt differ.

A group whose completions all have one reward has no advantage. Of rewards of 0 and 1 the deviation within a group is
sqrt(p (1 - p)), with p the rate of success: 0 for prompts that are always or never solved, and greatest at a half.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from lit_narrative.seeds import run_seed, stream_seed
from lit_narrative.views import Prompt, prompt_number

STREAM = 500
"""Random stream of a rollout batch for the choice of its prompts, beside those of passes and of replaced groups."""
DECAY = 0.5
"""Weight of what was known of a prompt beside its latest group: the policy that it was measured on is gone."""


class Curriculum:
    """Chooses prompts by the deviation of their rewards.

    What it chooses depends on the run's seed, the rollout batch, the loader's prompt and what all processes have seen,
    so that it is the same on any number of them.

    Args:
        share: probability with which a prompt of the loader is replaced, in 0..1, without 1.

    Attributes:
        deviations: of the rewards within a group, by the number of its prompt, averaged over its groups.
    """

    def __init__(self, share: float) -> None:
        self.share = share
        self.deviations: dict[int, float] = {}

    def choose(self, prompts: Sequence[Prompt], epoch: int, number: int, pool: Sequence[Prompt]) -> list[Prompt]:
        """The prompts of a rollout batch: some of the loader's, and in place of the others some that were seen before.

        Prompt j comes with probability d_j / sum of d, with d the deviations.

        Args:
            prompts: the loader's.
            epoch: of the rollout batch.
            number: of the rollout batch within the epoch.
            pool: all training prompts.
        """
        # In order of number: the order in which they were seen depends on the number of processes.
        known = sorted((prompt, deviation) for prompt, deviation in self.deviations.items() if deviation > 0)
        if not self.share or not known:
            return list(prompts)
        numbers, weights = [prompt for prompt, _ in known], [deviation for _, deviation in known]
        chosen = []
        for prompt in prompts:
            draw = random.Random(stream_seed(run_seed(), epoch, number, STREAM, prompt_number(prompt)))
            again = draw.random() < self.share
            chosen.append(_find(pool, draw.choices(numbers, weights)[0]) if again else prompt)
        return chosen

    def update(self, numbers: torch.Tensor, deviations: torch.Tensor) -> None:
        """Take in the groups of a rollout batch, those of all processes.

        Args:
            numbers: (n,) int64, of the prompts.
            deviations: (n,) of the rewards of each group; NaN where fewer than two could be scored.
        """
        for number, deviation in zip(numbers.tolist(), deviations.tolist(), strict=True):
            if deviation == deviation:  # not NaN
                known = self.deviations.get(number, deviation)
                self.deviations[number] = DECAY * known + (1 - DECAY) * deviation

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"numbers": list(self.deviations), "deviations": list(self.deviations.values())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Undo `state_dict`."""
        self.deviations = dict(zip(state["numbers"], state["deviations"], strict=True))


def _find(pool: Sequence[Prompt], number: int) -> Prompt:
    """The prompt of a number: at its place, unless some before it were left out, or the task numbers its own way."""
    if number < len(pool) and prompt_number(pool[number], number) == number:
        return pool[number]
    return next(prompt for prompt in (pool[place] for place in range(len(pool))) if prompt_number(prompt) == number)
