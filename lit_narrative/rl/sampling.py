"""Sampling of groups: completions of prompts with their rewards, and replacement of groups that teach nothing.

Notation: R completions of this process, k rewards.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import NamedTuple, Protocol

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from lit_narrative.lm.logprobs import CompletionBatch, TokenScores
from lit_narrative.rl.advantages import nanstd, weighted_sum
from lit_narrative.rl.curriculum import Curriculum
from lit_narrative.rl.rewards.runner import RewardRunner
from lit_narrative.rl.settings import GRPOSettings
from lit_narrative.seeds import run_seed, stream_seed
from lit_narrative.views import Prompt, Rollout, prompt_number

Gather = Callable[[torch.Tensor], torch.Tensor]
"""Puts the (n, ...) rows of all processes together in order of rank, (W n, ...), on the CPU."""
REPLACE = 1000
"""Random stream of the first round of replacements, beside those of the collector and of the passes."""
EQUAL = 1e-8
"""Standard deviation below which the rewards of a group count as equal."""


class Policy(Protocol):
    """What the collector asks of an algorithm whose language model samples."""

    lm: nn.Module
    tokenizer: PreTrainedTokenizerBase
    value_head: nn.Module | None

    @property
    def reference_copy(self) -> nn.Module | None:
        """The reference, where it is a model beside the policy."""

    def generate(
        self, prompts: Sequence[Prompt], samples: int = 1, seed: int = 0, *, streams: Sequence[int] | None = None
    ) -> list[Rollout]:
        """``samples`` completions of each prompt in order; ``streams`` numbers the prompts' random streams."""

    def score(
        self, lm: nn.Module, batch: CompletionBatch, value_head: nn.Module | None = None, entropy: bool = False
    ) -> TokenScores:
        """Scores of completion tokens under ``lm``, at the temperature that they were sampled with."""

    def precision(self) -> AbstractContextManager[None]:
        """The precision of the run, for calls of the model outside of its training step."""


class CollectStep(NamedTuple):
    """Where a run stands: the cycle, the rollout batch within it, and the optimizer steps made so far."""

    epoch: int
    number: int
    optimizer_steps: int


class SampledRollouts(NamedTuple):
    """R completions, their rewards (R, k) with NaN where there is none, and metrics of how they were sampled."""

    rollouts: list[Rollout]
    rewards: torch.Tensor
    metrics: dict[str, float]


class GroupSampler:
    """Samples a group of completions of each prompt and rewards them.

    With ``curriculum``, some prompts are replaced by earlier ones before anything is sampled
    (`lit_narrative.rl.curriculum.Curriculum`). With ``dynamic_sampling``, groups whose completions all have the
    same reward are replaced by groups of other prompts (DAPO, Yu et al. 2025, section 3.2).

    Args:
        settings: of the run.
        scorer: of completions, by the rewards that the settings name, in their order.
        gather: over processes.
    """

    def __init__(self, settings: GRPOSettings, scorer: RewardRunner, gather: Gather) -> None:
        self.settings, self.scorer, self.gather = settings, scorer, gather
        self.curriculum = Curriculum(settings.curriculum)

    def sample(
        self, policy: Policy, prompts: Sequence[Prompt], step: CollectStep, pool: Sequence[Prompt]
    ) -> SampledRollouts:
        """Sample and reward one group for each prompt.

        Args:
            policy: what samples.
            prompts: this process's; their ``index`` column numbers their random streams.
            step: where the run stands.
            pool: all training prompts, to draw replacements from.
        """
        rounds, spent, slots = self.settings.dynamic_sampling, self.scorer.seconds, prompts
        prompts = self.curriculum.choose(slots, step.epoch, step.number, pool)
        rollouts, rewards, failures = self._sample_once(policy, prompts, slots, step, 0)
        if self.settings.curriculum:
            numbers = torch.tensor([prompt_number(prompt) for prompt in prompts])
            self.curriculum.update(self.gather(numbers), self.gather(self._deviations(rewards)))
        replaced = torch.zeros(())
        for again in range(1, rounds + 1):
            equal = self._zero_variance_groups(rewards)
            # All processes stay in the loop until none has such a group: the sums below are collectives.
            if not self._sum(torch.tensor(float(len(equal)))):
                break
            replaced += len(equal)
            failed = [slots[index] for index in equal]
            others = [_replacement(prompt, step, again, pool) for prompt in failed]
            fresh, scores, failed_again = self._sample_once(policy, others, failed, step, again)
            self._put(rollouts, rewards, equal, fresh, scores)
            failures = failures + failed_again
        metrics = {
            f"rewards/{name}/failures": float(count)
            for name, count in zip(self.scorer.labels.values(), self._sum(failures), strict=True)
        }
        if self.settings.curriculum:
            again_seen = sum(one is not slot for one, slot in zip(prompts, slots, strict=True))
            metrics["curriculum/drawn_again"] = float(self._sum(torch.tensor(float(again_seen))))
        if rounds:
            left = torch.tensor(float(len(self._zero_variance_groups(rewards))))
            metrics["dynamic_sampling/replaced"] = float(self._sum(replaced))
            metrics["dynamic_sampling/left"] = float(self._sum(left))
        metrics["rewards_time"] = self.scorer.seconds - spent
        return SampledRollouts(rollouts, rewards, metrics)

    def _sample_once(
        self, policy: Policy, prompts: Sequence[Prompt], keys: Sequence[Prompt], step: CollectStep, again: int
    ) -> tuple[list[Rollout], torch.Tensor, torch.Tensor]:
        """Rollouts, their rewards (R, k), and how many completions each reward failed on (k,).

        The random streams belong to ``keys``: a prompt that replaces two others in one round is then completed
        differently each time.
        """
        seed, streams = rollout_seed(step, again), [prompt_number(prompt) for prompt in keys]
        rollouts = policy.generate(prompts, self.settings.num_generations, seed, streams=streams)
        # Replacements belong to the same rollout batch, so they bring a failing reward no closer to its limit.
        scores = self.scorer.score(rollouts, again=again > 0)
        failures = torch.tensor([float(scores.failures.get(name, 0)) for name in self.settings.rewards])
        return rollouts, scores.values, failures

    def _put(
        self,
        rollouts: list[Rollout],
        rewards: torch.Tensor,
        groups: Sequence[int],
        fresh: Sequence[Rollout],
        scores: torch.Tensor,
    ) -> None:
        """Put fresh groups in place of those numbered ``groups``."""
        size = self.settings.num_generations
        for index, start in zip(groups, range(0, len(fresh), size), strict=True):
            rows = slice(index * size, (index + 1) * size)
            # The sampler numbers the groups of each call from 0; a fresh group takes the number of the one it replaces.
            rollouts[rows] = [replace(rollout, group=index) for rollout in fresh[start : start + size]]
            rewards[rows] = scores[start : start + size]

    def _zero_variance_groups(self, rewards: torch.Tensor) -> list[int]:
        """Groups of this process whose completions all have the same total reward, and so no advantage."""
        # A group with fewer than two scores has no deviation (NaN) and no advantage either: it counts as equal.
        return (self._deviations(rewards).nan_to_num() < EQUAL).nonzero().flatten().tolist()

    def _deviations(self, rewards: torch.Tensor) -> torch.Tensor:
        """The deviation of the total rewards (R, k) of each group; NaN of fewer than two scores."""
        totals = weighted_sum(rewards, self.settings.weights).view(-1, self.settings.num_generations)
        return nanstd(totals).squeeze(1)

    def _sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over processes."""
        # Added up in order of rank on each process: all get the same bits, and leave the loop in the same round.
        return self.gather(values[None]).sum(0)


def rollout_seed(step: CollectStep, again: int = 0) -> int:
    """The seed of a rollout batch, and of the groups that replace others in it, by the number of the round."""
    seed = stream_seed(run_seed(), step.epoch, step.number)
    # The first round keeps the plain seed: where no group is replaced, completions are the same without the option.
    return stream_seed(seed, REPLACE + again) if again else seed


def _replacement(failed: Prompt, step: CollectStep, again: int, pool: Sequence[Prompt]) -> Prompt:
    """Another training prompt, chosen by the failed one's number, hence the same on any number of processes."""
    index = int(failed.columns["index"])
    return pool[stream_seed(run_seed(), step.epoch, step.number, REPLACE + again, index) % len(pool)]
