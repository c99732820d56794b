"""Exact resume: a checkpoint is whole or absent, and a run that comes back from one first ends what was interrupted.

Lightning saves in the middle of things: after a batch, but before its metrics are logged and before the validation that
follows; within the end of an epoch. Its own restart then leaves out what stood behind that point: the row of metrics,
the validation, the hooks of the epoch's end and of the next one's start. Here a checkpoint says at which point it was
saved, and ``ExactResume`` runs the rest by Lightning's own functions before the loop goes on.
"""

import logging
import os
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.utilities.apply_func import convert_tensors_to_scalars
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from lightning.pytorch.trainer.states import TrainerFn

from lit_narrative import interrupts
from lit_narrative.distributed import gather_objects
from lit_narrative.errors import UserError
from lit_narrative.files import whole_file
from lit_narrative.progress import make_loader_later, stay_at_end

logger = logging.getLogger(__name__)

_SECONDS_TO_DIE = 3.0
"""For how long a process that was killed may look alive: its connections close before it is gone."""

RESUME = "resume"
"""Key of a checkpoint under which it says where it was saved."""

Point = Literal["between", "step", "validating", "validated", "epoch_end"]
"""Where a checkpoint was saved: between steps; after a step, before its metrics are logged; during or after the
validation that follows it; within the end of an epoch."""


class WholeFiles(TorchCheckpointIO):
    """Checkpoints that are written beside their name and then take it, so that the one before stays until then.

    The original writes to the system's folder for temporary files, and where that lies on another file system it
    copies over the older checkpoint.

    Attributes:
        resumes: whether a fit is to resume from what is read, and so needs more than weights.
    """

    resumes = False

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read the file.

        Raises:
            UserError: a fit is to resume from it, and it holds weights alone.
        """
        checkpoint: dict[str, Any] = super().load_checkpoint(path, *args, **kwargs)
        if self.resumes and "optimizer_states" not in checkpoint:
            raise UserError(
                f"the checkpoint '{path}' holds weights alone (`save_weights_only`), and a fit cannot resume from it; "
                "start a new one from its weights, which a language model takes as --model.model, or resume from a "
                "checkpoint with the optimizer's state"
            )
        return checkpoint

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write the file; a path with a protocol, such as ``s3://``, is left to the original."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
        else:
            with whole_file(path) as temporary:
                torch.save(checkpoint, temporary)


class ExactResume(Checkpoint):
    """Ends what a checkpoint interrupted; saves one with every epoch, and when a signal asks the run to end.

    Every module brings it along. Being a ``Checkpoint``, it comes after all other callbacks.
    """

    best_model_path = ""  # Lightning asks the first `Checkpoint` for it, and that may be this one

    def __init__(self) -> None:
        self._interrupted: dict[str, Any] | None = None
        self._saved_step = -1
        self._lent = 0  # optimizer steps that the loop is not to count until it has started
        self._validated = False
        self._before_validation: dict[str, Any] = {}
        self._repeated: dict[str, float] = {}
        self._validation = ExitStack()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take over the writing of checkpoints, unless the user has chosen another way."""
        self._interrupted, self._saved_step = None, -1
        # A number of numpy would stand in checkpoints, which could then not be read with `weights_only`.
        trainer.accumulate_grad_batches = int(trainer.accumulate_grad_batches)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = WholeFiles()
        if isinstance(trainer.strategy.checkpoint_io, WholeFiles):
            trainer.strategy.checkpoint_io.resumes = stage == "fit"

    # --- saving -----------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Note the point, the metrics that are still to be logged, and the random state of each process."""
        if trainer.state.fn != TrainerFn.FITTING:
            return
        self._saved_step = trainer.global_step
        point = self._point(trainer)
        # A validation that is repeated as a whole is to begin as it began; its loader has drawn from the state already.
        states = self._before_validation if point == "validating" else _random_states()
        checkpoint[RESUME] = {
            "point": point,
            "metrics": _unlogged_metrics(trainer, point),
            "logged": convert_tensors_to_scalars(trainer.fit_loop.epoch_loop._results.metrics(on_step=True)["log"]),
            "callback_metrics": {name: value.detach().cpu() for name, value in trainer.callback_metrics.items()},
            "savers": {
                saver.state_key: {name: getattr(saver, name) for name in _PENDING} for saver in _savers(trainer)
            },
            "accumulate_grad_batches": trainer.accumulate_grad_batches,
            "random": gather_objects(trainer, states),
        }

    def _point(self, trainer: Trainer) -> Point:
        # Lightning declares the counts by a base class that lacks some of them.
        epochs: Any = trainer.fit_loop.epoch_progress.current
        batches: Any = trainer.fit_loop.epoch_loop.batch_progress.current
        if epochs.processed > epochs.completed:
            return "epoch_end"
        if epochs.started > epochs.processed and batches.processed > batches.completed:
            return "step"
        if trainer.validating:
            return "validated" if self._validated else "validating"
        return "between"

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A validation begins; it may be left, since it is repeated as a whole."""
        self._validated = False
        self._validation.enter_context(interrupts.may_be_left(alone=trainer.world_size == 1))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What was measured is about to be logged, and must not be logged twice."""
        self._validation.close()
        self._validated = True

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Have the loader take up its place; say at once that a run would lose all that it learns when it is killed."""
        if trainer.ckpt_path:
            make_loader_later(trainer)
        savers = _savers(trainer)
        dry = trainer.fast_dev_run  # type: ignore[attr-defined]
        if not dry and not any(saver.save_last or saver.save_top_k for saver in savers):
            logger.warning("this run saves no checkpoint: add the callback ModelCheckpoint with `save_last: true`")
        elif not dry and trainer.check_val_every_n_epoch not in (None, 1) and not any(map(_saves_early, savers)):
            logger.warning(
                "checkpoints are saved when validation ends, every %s epochs (trainer.check_val_every_n_epoch): give "
                "ModelCheckpoint `save_last: true` to save with every epoch",
                trainer.check_val_every_n_epoch,
            )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save with every epoch, validated or not, where ``last.ckpt`` is asked for and nothing was saved just now."""
        # Lightning saves it only together with one of the best; of those `save_top_k: 0` has none, and they wait for
        # a validation.
        if trainer.fast_dev_run or self._saved_step == trainer.global_step:  # type: ignore[attr-defined]
            return
        for saver in _savers(trainer):
            every = saver.every_n_epochs if saver.save_last else None
            if every and (trainer.current_epoch + 1) % every == 0:
                saver._save_last_checkpoint(trainer, saver._monitor_candidates(trainer))

    # --- resuming ---------------------------------------------------------------------------------------------------

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Have the loop start in the middle of the interrupted epoch, however much of its end had been done."""
        if trainer.state.fn != TrainerFn.FITTING:
            return
        loop = checkpoint["loops"]["fit_loop"]
        stored = checkpoint.get(RESUME) or {
            "point": _point_by_counts(loop),
            "metrics": {},
            "accumulate_grad_batches": trainer.accumulate_grad_batches,
            "random": [],
        }
        epochs, batches = loop["epoch_progress"], loop["epoch_loop.batch_progress"]
        steps = loop["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]["total"]
        unfinished = (
            0 if batches["is_last_batch"] else batches["current"]["processed"] % stored["accumulate_grad_batches"]
        )
        if unfinished:
            # Lightning stores no gradients: the micro-batches of a step that was not made yet are repeated.
            stored = stored | {"point": "between", "metrics": {}}
        if epochs["current"]["ready"] > epochs["current"]["started"]:  # the hooks of the epoch's start are repeated
            for counts in (epochs["current"], epochs["total"]):
                counts["ready"] = counts["started"]
        for counts in (batches["current"], batches["total"]):
            done = counts["processed"] - unfinished
            counts.update(ready=done, started=done, processed=done, completed=done)
        self._interrupted, self._lent = stored, 0
        if stored["point"] == "epoch_end":
            batches["is_last_batch"] = True  # also where the epoch was ended before its last one
            for counts in (epochs["current"], epochs["total"]):
                counts["processed"] -= 1
        if stored["point"] != "between" and steps["completed"] == trainer.max_steps:
            # The loop would not start at all, and leave out what comes after the last step.
            steps["completed"], self._lent = steps["completed"] - 1, 1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the interrupted step, and the epoch if that was its last; then the loop is as in an unbroken run."""
        if self._interrupted is not None:
            stored, self._interrupted = self._interrupted, None
            trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total.completed += (
                self._lent
            )
            if len(stored["random"]) == trainer.world_size:
                state = stored["random"][trainer.global_rank]
                torch.set_rng_state(state["cpu"])
                if len(state["cuda"]) == torch.cuda.device_count():
                    torch.cuda.set_rng_state_all(state["cuda"])
            _restore_monitored(trainer, stored)
            stay_at_end(trainer)
            _end_interrupted(trainer, stored["point"], stored["metrics"])
            epochs: Any = trainer.fit_loop.epoch_progress.current
            self._repeated = stored.get("logged", {}) if epochs.started > epochs.processed else {}
        interrupts.set_training(True)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Log again what was logged in this epoch: Lightning repeats the last value of what a step does not log."""
        if self._repeated:  # before the step, whose own values then replace them
            pl_module.log_dict(self._repeated, batch_size=1)
            self._repeated = {}

    # --- ending early -----------------------------------------------------------------------------------------------

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Obey a signal when an optimizer step is complete; several processes agree on it.

        Raises:
            Interrupted: a signal came.
        """
        self._before_validation = _random_states()
        if trainer.fit_loop._should_accumulate():
            return
        number = interrupts.requested()
        if trainer.strategy.reduce_boolean_decision(number is not None, all=False):
            raise interrupts.Interrupted(number or signal.SIGTERM)  # it may have come to another process

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """No more steps are made: what is left to do may be left at any point."""
        interrupts.set_training(False)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save what was reached when a signal ended the run, where a resumed run can take it up.

        Raises:
            UserError: the run broke off because another of its processes had ended.
        """
        self._validation.close()
        if _lost_connection(exception) and (dead := _ended_processes(trainer)):
            last = next((saver.last_model_path for saver in _savers(trainer) if saver.last_model_path), "")
            remedy = f"resume by --ckpt_path={last}" if last else "there is no checkpoint yet: start over"
            raise UserError(
                f"process {' and '.join(map(str, dead))} of 0 to {trainer.world_size - 1} ended (killed, or out of "
                f"memory?), and this one, {trainer.global_rank}, cannot go on without it; {remedy}"
            )
        if not (isinstance(exception, interrupts.Interrupted) and exception.resumable and interrupts.training()):
            return
        epochs: Any = trainer.fit_loop.epoch_progress.current
        # Within the end of an epoch some hooks are done and others are not, and after the last epoch nothing would be
        # repeated: the last checkpoint stands.
        if epochs.ready > epochs.processed:
            saver = next(iter(_savers(trainer)), None)
            if saver is not None and not trainer.fast_dev_run:  # type: ignore[attr-defined]
                exception.saved = Path(str(saver.dirpath), f"{saver.CHECKPOINT_NAME_LAST}{saver.FILE_EXTENSION}")
                # By this a resumed run knows that the file is its own to replace.
                saver.last_model_path = str(exception.saved)
                trainer.save_checkpoint(exception.saved, weights_only=False)


def _lost_connection(exception: BaseException) -> bool:
    """Whether a collective operation failed; gloo says so by a RuntimeError, and by its text alone."""
    words = ("gloo", "nccl", "peer", "socket", "connection")
    return isinstance(exception, RuntimeError) and any(word in str(exception).lower() for word in words)


def _ended_processes(trainer: Trainer) -> list[int]:
    """The ranks of the processes of this run on this machine that have ended, as far as this one can know."""
    launcher = trainer.strategy.launcher
    if not isinstance(launcher, _SubprocessScriptLauncher):
        return []
    offset, until = trainer.global_rank - trainer.local_rank, time.monotonic() + _SECONDS_TO_DIE
    while True:
        ended = [rank for rank, process in enumerate(launcher.procs, 1) if process.poll() is not None]
        # Started by the first process, the others are left to init when it dies.
        if trainer.local_rank > 0 and os.getppid() == 1:
            ended = [0]
        if ended or time.monotonic() > until:
            return [offset + rank for rank in ended]
        time.sleep(0.05)


_PENDING = ("_defer_save_until_validation", "_last_global_step_saved")
"""What a ModelCheckpoint leaves out of its state: whether a save waits for a validation, and the last one's step."""


def _random_states() -> dict[str, Any]:
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}


def _restore_monitored(trainer: Trainer, stored: dict[str, Any]) -> None:
    """Restore what callbacks monitor, and what is still to be saved, by which the best checkpoints are chosen."""
    device = trainer.strategy.root_device
    metrics = {name: value.to(device) for name, value in stored.get("callback_metrics", {}).items()}
    trainer._logger_connector._callback_metrics.update(metrics)
    for saver in _savers(trainer):
        for name, value in stored.get("savers", {}).get(saver.state_key, {}).items():
            setattr(saver, name, value)
        # What waited for the validation was this very checkpoint.
        saver._defer_save_until_validation &= stored["point"] != "validated"


def _savers(trainer: Trainer) -> list[ModelCheckpoint]:
    return [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]


def _saves_early(saver: ModelCheckpoint) -> bool:
    """Whether it saves without waiting for a validation."""
    by_step = saver._every_n_train_steps or saver._train_time_interval or saver._save_on_train_epoch_end
    return bool(saver.save_last or by_step)


def _unlogged_metrics(trainer: Trainer, point: Point) -> dict[str, float]:
    """The row of metrics that Lightning logs after the hooks in which it saves."""
    connector = trainer._logger_connector
    due = point == "epoch_end" or (
        point == "step" and not trainer.fit_loop._should_accumulate() and connector.should_update_logs
    )
    return (
        {name: float(value) for name, value in convert_tensors_to_scalars(connector.metrics["log"]).items()}
        if due
        else {}
    )


def _point_by_counts(loop: dict[str, Any]) -> Point:
    """The point of a checkpoint that does not tell, from the counts in its state of Lightning's loop."""
    epochs, batches = loop["epoch_progress"]["current"], loop["epoch_loop.batch_progress"]["current"]
    if epochs["processed"] > epochs["completed"]:
        return "epoch_end"
    if epochs["started"] == epochs["processed"] or not batches["ready"]:
        return "between"
    return "step" if batches["processed"] > batches["completed"] else "validated"


def _end_interrupted(trainer: Trainer, point: Point, metrics: dict[str, Any]) -> None:
    """Run what stood between the checkpoint and the next batch, by the functions that run it in an unbroken run."""
    loop, steps = trainer.fit_loop, trainer.fit_loop.epoch_loop
    fetcher = loop._data_fetcher
    assert fetcher is not None
    # Where it restarts, Lightning leaves out schedulers. Its setter would say so of every run with `max_steps`.
    loop._restarting = False
    # Validation begins at its first batch, whatever had been read of it.
    steps.val_loop.restarting = False
    steps.val_loop.batch_progress.reset()
    if point == "epoch_end":
        loop.epoch_progress.increment_processed()
        steps._batches_that_stepped -= 1  # Lightning logs the end of an epoch under its last step
        trainer._logger_connector.log_metrics(metrics)
        steps._batches_that_stepped += 1
        steps.update_lr_schedulers("epoch", update_plateau_schedulers=True)
        loop.epoch_progress.increment_completed()
    elif point != "between":
        trainer._logger_connector.log_metrics(metrics)
        steps._skip_next_val = point == "validated"
        before, steps._restarting = steps.restarting, False
        stepped = steps._batches_that_stepped + 1
        steps.on_advance_end(fetcher)
        steps._batches_that_stepped = stepped  # also where the batches of this run end with another row
        if steps._num_ready_batches_reached() or steps._is_training_done:
            loop.on_advance_end()
        steps._restarting = before
    epochs: Any = loop.epoch_progress.current
    if epochs.started == epochs.processed:
        # Between two epochs nothing is left to restart: the next one begins as in an unbroken run.
        loop._resuming_from_checkpoint = steps.restarting = False
        loop.reset_restart_stage()
        steps.reset_restart_stage()
    elif steps._should_check_val_fx(fetcher):
        # On its way to the next batch Lightning passes the end of this one again, without the validation.
        steps._batches_that_stepped -= not steps._should_accumulate()
