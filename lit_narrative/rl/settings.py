"""How large a window of rollouts is, and how it is cut into micro-batches."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lightning.pytorch import Trainer

from lit_narrative.errors import UserError, check_least
from lit_narrative.lm.checkpoint import of_reference
from lit_narrative.rl.gae import ValueSettings

if TYPE_CHECKING:
    from lit_narrative.modules.grpo import GRPOModule


MICRO_BATCH = 32


@dataclass(frozen=True)
class WindowPlan:
    """Sizes of a window; see :class:`lit_narrative.modules.grpo.GRPOModule` for each.

    Raises:
        UserError: one is out of range, or two of them say the same.
    """

    num_generations: int
    generation_batch_size: int | None
    micro_batch_size: int | None
    steps_per_generation: int | None
    num_iterations: int

    def __post_init__(self) -> None:
        for name in ("generation_batch_size", "micro_batch_size", "steps_per_generation", "num_iterations"):
            check_least(f"model.{name}", getattr(self, name), 1)
        if self.micro_batch_size and self.steps_per_generation:
            raise UserError("model.micro_batch_size and model.steps_per_generation say the same; give one of them")

    def prompts(self, batch_size: int, world_size: int) -> int:
        """Prompts of a window on each process, given what the task asks for.

        Raises:
            UserError: ``generation_batch_size`` is no whole number of groups on each process.
        """
        if self.generation_batch_size is None:
            return batch_size
        prompts, rest = divmod(self.generation_batch_size, self.num_generations * world_size)
        if rest:
            raise UserError(
                f"model.generation_batch_size={self.generation_batch_size} is not a whole number of groups of "
                f"model.num_generations={self.num_generations} on each of {world_size} processes; give a multiple of "
                f"{self.num_generations * world_size}"
            )
        return prompts

    def rows(self, completions: int) -> int:
        """Completions of a micro-batch, given those of a window on this process."""
        if self.steps_per_generation:
            return completions // self.steps_per_generation
        return self.micro_batch_size or MICRO_BATCH

    def micro_batches(self, prompts: int) -> int:
        """Micro-batches in one pass over the completions of ``prompts`` prompts."""
        completions = prompts * self.num_generations
        return math.ceil(completions / self.rows(completions))

    def check(self, prompts: int, windows: int, trainer: Trainer) -> dict[str, int]:
        """See that a cycle is made of whole windows, and a window of whole optimizer steps.

        Args:
            prompts: of a window on this process.
            windows: of a cycle, as far as the prompts go.
            trainer: what runs it.

        Returns:
            What may not change in the middle of a cycle, by name.

        Raises:
            UserError: they are not, with the numbers.
        """
        if windows == 0:
            given = "model.generation_batch_size" if self.generation_batch_size else "data.batch_size"
            raise UserError(f"fewer training prompts than the {prompts} of a window; lower {given}")
        completions, accumulate = prompts * self.num_generations, trainer.accumulate_grad_batches
        if self.steps_per_generation and completions % self.steps_per_generation:
            raise UserError(
                f"model.steps_per_generation={self.steps_per_generation} does not divide the {completions} completions "
                "of a window on each process"
            )
        steps = self.micro_batches(prompts)
        if steps % accumulate:
            raise UserError(
                f"trainer.accumulate_grad_batches={accumulate} does not divide the {steps} micro-batches of a window "
                f"({prompts} prompts x num_generations={self.num_generations} completions, {self.rows(completions)} "
                "a micro-batch)"
            )
        window, limit = steps * self.num_iterations, trainer.limit_train_batches
        batches = int(windows * window * limit) if isinstance(limit, float) else min(windows * window, limit or 0)
        if batches % window and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            raise UserError(
                f"trainer.limit_train_batches={limit} ends a cycle within a window of {window} micro-batches; give a "
                "multiple of that"
            )
        return {
            "data.batch_size": prompts,
            "model.num_generations": self.num_generations,
            "model.num_iterations": self.num_iterations,
            "micro-batches of a window": steps,
            "trainer.accumulate_grad_batches": accumulate,
            "processes": trainer.world_size,
        }


ANEW = "resume with the settings that it was saved with, or begin a new run from it by model.model=<checkpoint>"


def check_settings(module: "GRPOModule") -> None:
    """Check the settings of a module against each other.

    Raises:
        UserError: they contradict each other, or one would be ignored.
    """
    gae = module.advantage == "gae"
    least = 1 if gae else 2
    if module.num_generations < least:
        raise UserError(
            f"model.num_generations={module.num_generations}: a group needs at least {least} completions to compare"
            + ("" if gae else "; one is enough with model.advantage=gae")
        )
    check_least("model.dynamic_sampling", module.dynamic_sampling, 0)
    _check_rewards(module.reward_weights)
    if module.sampling.filtered:
        raise UserError(
            "model.sampling.top_k and top_p must be off in RL: the policy would be trained on another distribution "
            "than it is sampled from; leave them at 0 and 1"
        )
    if module.lora and module.lora.dropout:
        raise UserError(f"model.lora.dropout={module.lora.dropout}: dropout is off in RL; leave it at 0")
    if gae and module.scale_rewards == "group":
        raise UserError("model.scale_rewards=group has no meaning for model.advantage=gae; choose batch or none")
    if gae and module.dynamic_sampling:
        raise UserError("model.dynamic_sampling replaces groups, which model.advantage=gae does not compare; remove it")
    if not gae and module.value != ValueSettings():
        raise UserError(f"model.value is not read with model.advantage={module.advantage}, only with gae; remove it")
    alone = module.advantage == "group" and module.scale_rewards == "group" and not module.loss.kl_in_reward
    if module.multi_objective_aggregation == "normalize_then_sum" and not alone:
        raise UserError(
            "model.multi_objective_aggregation=normalize_then_sum normalises each reward within its group; it goes "
            "with model.advantage=group, without model.scale_rewards and without model.loss.kl_in_reward"
        )


def _check_rewards(weights: Mapping[str, float]) -> None:
    if not weights:
        raise UserError("model.rewards is empty; name at least one reward with its weight")
    for name, weight in weights.items():
        if not math.isfinite(weight):
            raise UserError(f"model.rewards: the weight of '{name}' is {weight}; give a number")


def check_sizes(stored: Mapping[str, int], now: Mapping[str, int]) -> None:
    """Check that a run resumed in the middle of a cycle cuts its windows as before.

    Raises:
        UserError: naming what changed.
    """
    changed = [f"{name} {was} -> {now[name]}" for name, was in stored.items() if was != now[name]]
    if changed:
        raise UserError(
            f"resumed in the middle of a cycle with other sizes ({', '.join(changed)}), some completions would be "
            "learned twice or never; resume with the old sizes, or from a checkpoint at the end of a cycle"
        )


def check_beside(own: set[str], stored: set[str]) -> None:
    """Check that a checkpoint has what stands beside the policy in this run.

    Args:
        own: names of this module's weights.
        stored: names of the checkpoint's.

    Raises:
        UserError: it has no reference, or not the same value head.
    """
    if any(of_reference(name) for name in own - stored):
        raise UserError(
            f"the checkpoint holds no reference policy, as model.loss.beta and model.reference ask for one; {ANEW}"
        )
    if any(name.startswith("value_head.") for name in own ^ stored):
        raise UserError(
            f"the checkpoint and model.advantage do not agree on a value head, which is for advantage=gae; {ANEW}"
        )
