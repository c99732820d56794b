"""Shared parts of callbacks: the base of those that see rollouts, dry runs, and work that must not disturb the run."""

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities.seed import isolate_rng
from PIL import Image

from lit_narrative.datamodules.base import TaskDataModule
from lit_narrative.errors import UserError
from lit_narrative.rl.rewards.base import AnyReward
from lit_narrative.rl.rewards.runner import ScoringSettings
from lit_narrative.views import Prompt, Rollout, ScoredRollouts


@runtime_checkable
class RolloutModule(Protocol):
    """A LightningModule that learns from scored completions of its own, such as `GRPOModule`."""

    scoring: ScoringSettings

    @property
    def device(self) -> torch.device:
        """Where the policy is."""

    @property
    def scored(self) -> ScoredRollouts | None:
        """This process's part of the latest rollout batch, a new object for each batch; None before the first."""

    @property
    def reward_functions(self) -> Mapping[str, AnyReward]:
        """The rewards by name, from the start of training on."""

    def generate(self, prompts: Sequence[Prompt], *, seed: int) -> list[Rollout]:
        """One completion of each prompt; random streams depend on the seed and the prompt's ``index`` alone."""

    def log_dict(self, dictionary: Mapping[str, Any]) -> None:
        """Log metrics, as a LightningModule does."""


class RolloutCallback(Callback):
    """Sees every batch of scored rollouts once; subclasses define `on_rollouts`."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a module that samples no rollouts."""
        if stage == "fit":
            self.rollout_module(pl_module)
        self._seen: ScoredRollouts | None = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Hand on a rollout batch that was not there before."""
        module = self.rollout_module(pl_module)
        # One rollout batch lasts for many training batches; a new one is told by identity, as equal ones may follow.
        if module.scored is not None and module.scored is not self._seen:
            self._seen = module.scored
            self.on_rollouts(trainer, module, module.scored)

    def on_rollouts(self, trainer: Trainer, module: RolloutModule, scored: ScoredRollouts) -> None:
        """What to do with this process's part of a rollout batch."""
        raise NotImplementedError

    def rollout_module(self, module: LightningModule) -> RolloutModule:
        """The module being trained, as one that has rollouts.

        Raises:
            UserError: it has none.
        """
        if not isinstance(module, RolloutModule):
            raise UserError(
                f"callback {type(self).__name__} needs a module with rollouts, such as GRPOModule; "
                f"{type(module).__name__} has none"
            )
        return module


def task(trainer: Trainer) -> TaskDataModule:
    """The task of the run: Lightning's Trainer holds its DataModule without saying so in its types."""
    data: TaskDataModule = trainer.datamodule  # type: ignore[attr-defined]
    return data


def dry_run(trainer: Trainer) -> bool:
    """Whether this is a ``fast_dev_run``, which writes nothing and samples little."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]


def shows_images(trainer: Trainer) -> list[WandbLogger | TensorBoardLogger]:
    """The loggers of a run that show images: Lightning has no common method for those."""
    return [target for target in trainer.loggers if isinstance(target, WandbLogger | TensorBoardLogger)]


def show_images(trainer: Trainer, images: Mapping[str, bytes]) -> None:
    """Hand images to the loggers that show them, at the present step.

    Args:
        trainer: of the run.
        images: PNG files by name.
    """
    for target in shows_images(trainer):
        for name, content in images.items():
            image = Image.open(io.BytesIO(content)).convert("RGB")
            if isinstance(target, WandbLogger):
                target.log_image(name, [image], step=trainer.global_step)
            else:
                target.experiment.add_image(name, np.asarray(image), trainer.global_step, dataformats="HWC")


@contextmanager
def isolated() -> Iterator[None]:
    """Gradients may be taken within, whatever the Trainer does, and every random state is afterwards as it was."""
    with ExitStack() as stack:
        stack.enter_context(isolate_rng())
        # The Trainer tests under inference_mode, whose tensors autograd refuses even with gradients enabled.
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        yield


@contextmanager
def first_process_works(trainer: Trainer) -> Iterator[bool]:
    """Whether this is the first process, which alone works within; the others wait, and end as it ends.

    Raises:
        UserError: on the others, if it raised anything.
    """
    try:
        yield trainer.is_global_zero
    except Exception as error:
        # The others wait in the broadcast below: without an answer they would wait until torch's time limit.
        trainer.strategy.broadcast(str(error) or type(error).__name__)
        raise
    message = trainer.strategy.broadcast(None)
    if message is not None:
        raise UserError(message)
