"""How large a window of rollouts is, and how it is cut into micro-batches."""

import math
from dataclasses import dataclass

from lightning.pytorch import Trainer

from lit_narrative.errors import UserError, check_least

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
