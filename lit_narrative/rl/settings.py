"""Settings of GRPO that check themselves: sizes of a rollout batch, and options against each other.

A *rollout batch* is what the policy samples before it learns: G completions of each of some prompts. It is split into
micro-batches, and a cycle (an epoch of the Trainer) is a whole number of rollout batches.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from lit_narrative.errors import UserError, check_choice, check_least
from lit_narrative.lm.checkpoint import of_reference
from lit_narrative.lm.load import Lora
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.lm.turns import TurnSettings
from lit_narrative.rl.advantages import Aggregation, Scale
from lit_narrative.rl.gae import ValueSettings
from lit_narrative.rl.loss_settings import LossSettings
from lit_narrative.rl.reference import DistillationSettings, ReferenceKind, ReferenceSettings
from lit_narrative.rl.served.settings import ServedSettings

Advantage = Literal["group", "rloo", "gae"]
MICRO_BATCH = 32
RESUME_HINT = "resume with the settings that it was saved with, or begin a new run from it by model.model=<checkpoint>"


@dataclass(frozen=True)
class BatchPlan:
    """Sizes of a rollout batch; see `lit_narrative.modules.grpo.GRPOModule` for each.

    Raises:
        UserError: one is out of range, or two of them say the same.
    """

    num_generations: int
    generation_batch_size: int | None = None
    micro_batch_size: int | None = None
    steps_per_generation: int | None = None
    num_iterations: int = 1

    def __post_init__(self) -> None:
        for name in ("generation_batch_size", "micro_batch_size", "steps_per_generation", "num_iterations"):
            check_least(f"model.{name}", getattr(self, name), 1)
        if self.micro_batch_size and self.steps_per_generation:
            raise UserError("model.micro_batch_size and model.steps_per_generation say the same; give one of them")

    def prompts(self, batch_size: int, world_size: int) -> int:
        """Prompts of a rollout batch on each process, given what the task asks for.

        Raises:
            UserError: ``generation_batch_size`` is not a whole number of groups on each process.
        """
        if self.generation_batch_size is None:
            return batch_size
        prompts, rest = divmod(self.generation_batch_size, self.num_generations * world_size)
        # Each process samples whole groups, of prompts of its own.
        if rest:
            raise UserError(
                f"model.generation_batch_size={self.generation_batch_size} is not a whole number of groups of "
                f"model.num_generations={self.num_generations} on each of {world_size} processes; give a multiple of "
                f"{self.num_generations * world_size}"
            )
        return prompts

    def micro_batch_rows(self, completions: int) -> int:
        """Completions of a micro-batch, given those of a rollout batch on this process."""
        if self.steps_per_generation:
            return completions // self.steps_per_generation
        return self.micro_batch_size or MICRO_BATCH

    def micro_batches(self, prompts: int) -> int:
        """Micro-batches in one pass over the completions of ``prompts`` prompts."""
        completions = prompts * self.num_generations
        # Rounded up; `split_minibatches` then levels the sizes, so that the last micro-batch is not a small rest.
        return math.ceil(completions / self.micro_batch_rows(completions))

    def check(
        self,
        prompts: int,
        rollout_batches: int,
        *,
        accumulate: int,
        limit: int | float,
        world_size: int,
        dry_run: bool = False,
    ) -> dict[str, int]:
        """Check that a cycle is made of whole rollout batches, and a rollout batch of whole optimizer steps.

        Args:
            prompts: of a rollout batch on this process.
            rollout_batches: of a cycle, as far as the prompts go.
            accumulate: micro-batches of an optimizer step, ``trainer.accumulate_grad_batches``.
            limit: micro-batches of a cycle at most, or a share of them as a float, ``trainer.limit_train_batches``.
            world_size: processes.
            dry_run: the run stops after a few micro-batches, wherever that is.

        Returns:
            What may not change in the middle of a cycle, by name.

        Raises:
            UserError: they are not, with the numbers.
        """
        if rollout_batches == 0:
            given = "model.generation_batch_size" if self.generation_batch_size else "data.batch_size"
            raise UserError(
                f"fewer training prompts than the {prompts} of a rollout batch; lower {given}, or add prompts"
            )
        completions = prompts * self.num_generations
        if self.steps_per_generation and completions % self.steps_per_generation:
            raise UserError(
                f"model.steps_per_generation={self.steps_per_generation} does not divide the {completions} completions "
                "of a rollout batch on each process"
            )
        steps = self.micro_batches(prompts)
        if steps % accumulate:
            fits = max(number for number in range(1, accumulate) if steps % number == 0)
            raise UserError(
                f"trainer.accumulate_grad_batches={accumulate} does not divide the {steps} micro-batches of a rollout "
                f"batch ({prompts} prompts x num_generations={self.num_generations} completions, "
                f"{self.micro_batch_rows(completions)} a micro-batch); set it to {fits}"
            )
        if not dry_run:
            self._check_limit(rollout_batches, steps * self.num_iterations, limit)
        return {
            "data.batch_size": prompts,
            "model.num_generations": self.num_generations,
            "model.num_iterations": self.num_iterations,
            "micro-batches of a rollout batch": steps,
            "trainer.accumulate_grad_batches": accumulate,
            "processes": world_size,
        }

    def _check_limit(self, rollout_batches: int, each: int, limit: int | float) -> None:
        """A cycle that ends within a rollout batch would throw the rest of its completions away."""
        total = rollout_batches * each
        # As the Trainer reads it: 1.0 is the whole cycle and 1 a single micro-batch.
        micro_batches = int(total * limit) if isinstance(limit, float) else min(total, limit)
        if micro_batches % each:
            raise UserError(
                f"trainer.limit_train_batches={limit} ends a cycle within a rollout batch of {each} micro-batches; "
                "give a multiple of that"
            )


@dataclass(frozen=True)
class GRPOSettings:
    """Settings of a GRPO run, whole and checked; see `lit_narrative.modules.grpo.GRPOModule` for each.

    Raises:
        UserError: they contradict each other, or one would be ignored.
    """

    rewards: Mapping[str, float]
    plan: BatchPlan
    sampling: SamplingParams = field(default_factory=SamplingParams)
    turns: TurnSettings | None = None
    lora: Lora | None = None
    loss: LossSettings = field(default_factory=LossSettings)
    advantage: Advantage = "group"
    scale_rewards: Scale | None = None
    multi_objective_aggregation: Aggregation = "sum_then_normalize"
    value: ValueSettings = field(default_factory=ValueSettings)
    reference: ReferenceSettings = field(default_factory=ReferenceSettings)
    distillation: DistillationSettings = field(default_factory=DistillationSettings)
    served: ServedSettings | None = None
    dynamic_sampling: int = 0
    curriculum: float = 0.0
    shuffle_rewards: bool | Sequence[str] = False

    def __post_init__(self) -> None:
        least = 1 if self.advantage == "gae" else 2
        if self.num_generations < least:
            raise UserError(
                f"model.num_generations={self.num_generations}: a group needs at least {least} completions to compare"
                + ("" if self.advantage == "gae" else "; one is enough with model.advantage=gae")
            )
        check_least("model.dynamic_sampling", self.dynamic_sampling, 0)
        self._check_rewards()
        self._check_policy()
        self._check_served()
        self._check_advantage()
        if self.reference_kind == "none":
            self.loss.check_without_reference()

    @property
    def num_generations(self) -> int:
        """Completions of a group."""
        return self.plan.num_generations

    @property
    def max_completion_length(self) -> int:
        """Tokens of a completion at most, over all its turns."""
        return self.sampling.max_new_tokens * (1 if self.turns is None else self.turns.most)

    @property
    def weights(self) -> torch.Tensor:
        """(k,) float32, of the rewards in order."""
        return torch.tensor(list(self.rewards.values()))

    @property
    def shuffled(self) -> tuple[str, ...]:
        """Names of the rewards that are permuted over the batch."""
        if isinstance(self.shuffle_rewards, bool):
            return tuple(self.rewards) if self.shuffle_rewards else ()
        return tuple(self.shuffle_rewards)

    @property
    def scale(self) -> Scale:
        """The deviation that advantages are divided by; ``gae`` compares no groups, so its default is the batch's."""
        return self.scale_rewards or ("batch" if self.advantage == "gae" else "group")

    @property
    def reference_kind(self) -> ReferenceKind:
        """The reference that this run needs, never ``auto``."""
        return self.reference.resolve(self.loss.beta, self.lora is not None)

    def _check_rewards(self) -> None:
        if not self.rewards and self.distillation.model is None:
            raise UserError("model.rewards is empty; name at least one reward with its weight")
        if not 0 <= self.curriculum < 1:
            raise UserError(f"model.curriculum={self.curriculum} is a share: from 0 on, and below 1")
        for name in ("dynamic_sampling", "curriculum", "shuffle_rewards"):
            if getattr(self, name) and not self.rewards:
                raise UserError(f"model.{name} is about rewards, and model.rewards is empty; leave it out")
        if self.advantage == "gae" and not self.rewards:
            raise UserError("model.advantage=gae learns the value of rewards, and model.rewards is empty; leave it out")
        for name, weight in self.rewards.items():
            if not math.isfinite(weight):
                raise UserError(f"model.rewards: the weight of '{name}' is {weight}; give a number")
        for name in self.shuffled:
            check_choice("model.shuffle_rewards: rewards", name, self.rewards)

    def _check_policy(self) -> None:
        # Scored log-probabilities know nothing of filters: ratios would be off before the first step.
        if self.sampling.filtered:
            raise UserError(
                "model.sampling.top_k and top_p must be off in RL: the policy would be trained on another distribution "
                "than it is sampled from; leave them at 0 and 1"
            )
        # With dropout an unmoved policy differs from itself: at rate 0.1 about 30 % of GPT-2's tokens were clipped.
        if self.lora and self.lora.dropout:
            raise UserError(f"model.lora.dropout={self.lora.dropout}: dropout is off in RL; leave it at 0")

    def _check_served(self) -> None:
        if self.served is None:
            return
        if self.sampling.grammar is not None:
            raise UserError("model.served: a server knows nothing of model.sampling.grammar; leave one of them out")
        if self.loss.importance_sampling_mode is None:
            raise UserError(
                "model.served: a server rounds otherwise than the trainer, and model.loss.importance_sampling_mode is "
                "null, which corrects for nothing; leave that out"
            )
        # Which prompts come next, or what the policy answers next, is known only when the batch before is rewarded.
        for name in ("turns", "dynamic_sampling", "curriculum"):
            if self.served.ahead and getattr(self, name):
                raise UserError(
                    f"model.served.ahead: a rollout batch is asked for before the one before it is rewarded, and "
                    f"model.{name} waits for that; leave one of them out"
                )

    def _check_advantage(self) -> None:
        gae = self.advantage == "gae"
        if gae and self.scale == "group":
            raise UserError("model.scale_rewards=group has no meaning for model.advantage=gae; choose batch or none")
        for name in ("dynamic_sampling", "curriculum"):
            if gae and getattr(self, name):
                raise UserError(f"model.{name} looks at groups, which model.advantage=gae does not compare; remove it")
        # An option that was given cannot be told from one that was not, but by another value than its default.
        if not gae and self.value != ValueSettings():
            raise UserError(f"model.value is not read with model.advantage={self.advantage}, only with gae; remove it")
        plain = self.advantage == "group" and self.scale == "group" and not self.loss.kl_in_reward
        if self.multi_objective_aggregation == "normalize_then_sum" and not plain:
            raise UserError(
                "model.multi_objective_aggregation=normalize_then_sum normalises each reward within its group; it goes "
                "with model.advantage=group, without model.scale_rewards and without model.loss.kl_in_reward"
            )


def check_sizes(stored: Mapping[str, int], now: Mapping[str, int]) -> None:
    """Check that a run resumed in the middle of a cycle splits its rollout batches as before.

    Raises:
        UserError: naming what changed.
    """
    # Between cycles sizes may change: the loader counts micro-batches of this cycle, and only those.
    changed = [f"{name} {was} -> {now[name]}" for name, was in stored.items() if was != now[name]]
    if changed:
        raise UserError(
            f"resumed in the middle of a cycle with other sizes ({', '.join(changed)}), some completions would be "
            "learned twice or never; resume with the old sizes, or from a checkpoint at the end of a cycle"
        )


def check_auxiliary(local: set[str], stored: set[str]) -> None:
    """Check that a checkpoint has the reference and the value head of this run.

    Args:
        local: names of this module's weights.
        stored: names of the checkpoint's.

    Raises:
        UserError: it has no reference, or not the same value head.
    """
    # Before Lightning loads the weights, whose error would name tensors and not the options that ask for them.
    if any(of_reference(name) for name in local - stored):
        raise UserError(
            f"the checkpoint holds no reference policy, as model.reference and the loss ask for one; {RESUME_HINT}"
        )
    # Both ways: a head that is missing would begin untrained, and one too many has no module to load into.
    if any(name.startswith("value_head.") for name in local ^ stored):
        raise UserError(
            "the checkpoint and model.advantage do not agree on a value head, which is for advantage=gae; "
            f"{RESUME_HINT}"
        )
