"""A task's prompts and rewards as a taskset of ``verifiers``, Prime Intellect's library of environments for models.

Its evaluation and its trainer import a taskset by the name of a module that exports one; docs/rl.md shows such a
module. Only this file imports the library, of the extra ``verifiers``.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
import verifiers.v1 as vf

from lit_narrative.errors import UserError
from lit_narrative.rl.rewards.base import AnyReward
from lit_narrative.rl.rewards.loading import RewardKey, split_rewards
from lit_narrative.rl.rewards.runner import RewardRunner
from lit_narrative.views import Prompt, Rollout, prompt_text


class Source(Protocol):
    """What offers prompts and rewards, such as a `TaskDataModule`."""

    def view(self, name: str, split: Any) -> Sequence[Any]:
        """The rows of a view."""

    def reward_functions(self, names: Sequence[str]) -> dict[str, AnyReward]:
        """The named rewards."""


class NarrativeData(vf.TaskData):
    """What is told of a prompt: its text, and its number in the split."""

    number: int


def make_taskset(
    source: Source, rewards: Mapping[RewardKey, float], split: str = "train"
) -> type[vf.Taskset[Any, Any]]:
    """The class of a taskset with a prompt of a task in each of its tasks, scored by the task's rewards.

    A trace gets each reward under its name, with its weight; what a reward cannot score counts as 0. Rewards read the
    model's last reply, and whether it ended by itself; those that read the tokens of a completion have none to read.

    Args:
        source: the task, such as ``StoryworldData()``.
        rewards: weights by name, as in ``model.rewards`` of `GRPOModule`.
        split: whose prompts: ``train``, ``val`` or ``test``.

    Raises:
        UserError: the task lacks prompts, or a reward is unknown.
    """
    weights, given = split_rewards(rewards)
    if not weights:
        raise UserError("a taskset needs one reward or more")
    named = [name for name in weights if name not in given]
    runner = RewardRunner({**source.reward_functions(named), **given})
    prompts: Sequence[Prompt] = source.view("prompts", split)

    class NarrativeTask(vf.Task[NarrativeData, vf.State, vf.TaskConfig]):
        """A prompt, and what its completion is worth."""

        @vf.reward  # type: ignore[untyped-decorator]  # of a library that may not be there
        async def scored(self, trace: vf.Trace[Any, Any, Any]) -> dict[str, float]:
            """The rewards by name, each times its weight."""
            scores = runner.score([_rollout(prompts[self.data.number], trace.last_reply, not trace.is_truncated)])
            values = scores.values[0].nan_to_num(0.0).tolist()
            return {name: weights[name] * value for name, value in zip(runner.names, values, strict=True)}

    class NarrativeTaskset(vf.Taskset[NarrativeTask, vf.TasksetConfig]):
        """The prompts of a split, in order."""

        def load(self) -> Iterator[NarrativeTask]:
            """A task for each prompt."""
            for number in range(len(prompts)):
                data = NarrativeData(number=number, prompt=prompts[number].text)
                yield NarrativeTask(data, self.config.task)

    return NarrativeTaskset


def _rollout(prompt: Prompt, text: str, finished: bool) -> Rollout:
    """A completion that another library has sampled: without ids."""
    none = torch.zeros(0, dtype=torch.long)
    return Rollout(none, none, torch.zeros(0), finished, text, prompt_text(prompt.text), prompt.columns)
