"""A job's side of a recipe's view: how far the Trainer is, and its figures, go to the recipe that started the job."""

from math import isfinite
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelSummary, ProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from lit_narrative.cli.recipes.meter import ProgressPipe
from lit_narrative.progress import fit_steps


def tell_recipe(trainer: Trainer, pipe: ProgressPipe) -> None:
    """Let a Trainer tell the recipe how far it is, in place of a bar and tables of its own."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    kept = [callback for callback in callbacks if not isinstance(callback, ProgressBar | ModelSummary)]
    callbacks[:] = [_Teller(pipe), *kept]
    if trainer.loggers:
        trainer.loggers = [*trainer.loggers, _Figures(pipe)]


class _Teller(Callback):
    """Counts steps; it stands before other callbacks, whose work it announces."""

    def __init__(self, pipe: ProgressPipe) -> None:
        self.pipe = pipe

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.pipe.begin(trainer.global_step)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._learn(trainer, "preparing")

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self._learn(trainer, "learning")

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._learn(trainer, "learning")

    def _learn(self, trainer: Trainer, phase: str) -> None:
        number, last = trainer.current_epoch + 1, trainer.max_epochs
        epoch = f"epoch {number} of {last}" if last is not None and last > 1 else "" if last == 1 else f"epoch {number}"
        self.pipe.tell(phase, *fit_steps(trainer), "step", epoch)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit":
            self.pipe.tell_phase("validating")
        else:
            self.pipe.begin()

    def on_validation_batch_end(self, trainer: Trainer, *batch: Any) -> None:
        if trainer.state.fn != "fit":
            self._count(trainer.num_val_batches, *batch)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.pipe.begin()

    def on_test_batch_end(self, trainer: Trainer, *batch: Any) -> None:
        self._count(trainer.num_test_batches, *batch)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.pipe.begin()

    def on_predict_batch_end(self, trainer: Trainer, *batch: Any) -> None:
        self._count(trainer.num_predict_batches, *batch)

    def _count(
        self, lengths: Any, module: LightningModule, outputs: Any, batch: Any, index: int, loader: int = 0
    ) -> None:
        done, total = int(sum(lengths[:loader])) + index + 1, sum(lengths)
        if done == total:  # behind the last batch come the callbacks, whose work is not in batches
            self.pipe.tell("evaluating", done, None, "batch")
        else:
            self.pipe.tell("", done, int(total) if isfinite(total) else None, "batch")


class _Figures(Logger):
    """Hands on what is logged."""

    name = version = ""

    def __init__(self, pipe: ProgressPipe) -> None:
        super().__init__()
        self.pipe = pipe

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.pipe.tell_figures(metrics)

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """A view shows none."""
