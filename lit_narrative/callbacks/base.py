"""FIXME."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng

from lit_narrative.errors import UserError
from lit_narrative.modules.grpo import GRPOModule
from lit_narrative.views import ScoredRollouts

if TYPE_CHECKING:
    pass


@contextmanager
def _apart() -> Iterator[None]:
    """Gradients may be taken within, whatever the Trainer does, and no random state is other afterwards."""
    with ExitStack() as stack:
        stack.enter_context(isolate_rng())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        yield


@contextmanager
def _together(trainer: Trainer) -> Iterator[bool]:
    """Whether this is the first process, which alone works within; the others wait, and end as it ends.

    Raises:
        UserError: on the others, if it raised anything.
    """
    try:
        yield trainer.is_global_zero
    except Exception as error:
        trainer.strategy.broadcast(str(error) or type(error).__name__)
        raise
    said = trainer.strategy.broadcast(None)
    if said is not None:
        raise UserError(said)


class RolloutCallback(Callback):
    """Sees every window of scored rollouts once; subclasses define :meth:`on_rollouts`."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a module that samples no rollouts."""
        if stage == "fit" and not isinstance(pl_module, GRPOModule):
            raise UserError(
                f"callback {type(self).__name__} needs GRPOModule; {type(pl_module).__name__} has no rollouts"
            )
        self._seen: ScoredRollouts | None = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Hand on a window that was not there before."""
        assert isinstance(pl_module, GRPOModule)
        if pl_module.scored is not None and pl_module.scored is not self._seen:
            self._seen = pl_module.scored
            self.on_rollouts(trainer, pl_module, pl_module.scored)

    def on_rollouts(self, trainer: Trainer, module: GRPOModule, scored: ScoredRollouts) -> None:
        """What to do with this process's part of a window."""
        raise NotImplementedError


def dry_run(trainer: Trainer) -> bool:
    """Whether this is a ``fast_dev_run``, which writes nothing and samples little."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]
