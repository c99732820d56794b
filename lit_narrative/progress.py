"""Progress of a Trainer within its epoch, in Lightning's loops, which have no public interface for it.

Lightning is imported for types only, so that every layer may import this module.
"""

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


def batches_begun(trainer: "Trainer") -> int:
    """Training batches of this epoch that the loop has fetched; after a resume those before it count too."""
    return trainer.fit_loop.epoch_loop.batch_progress.current.ready


def epoch_read(trainer: "Trainer") -> bool:
    """Whether the epoch under way, or that of a checkpoint, was read to its end, however many batches it had."""
    return trainer.fit_loop.epoch_loop.batch_progress.is_last_batch


def batches_resumed(trainer: "Trainer") -> int:
    """Training batches behind which this epoch begins: not 0 in a run that was resumed within it, before its end."""
    epochs: Any = trainer.fit_loop.epoch_progress.current  # see below
    return 0 if epoch_read(trainer) or epochs.started == epochs.processed else batches_begun(trainer)


def batches_learned(trainer: "Trainer") -> int:
    """Training batches of the epoch under way, without those of an optimizer step that is not made yet."""
    # Lightning declares the counts by a base class that lacks some of them.
    epochs: Any = trainer.fit_loop.epoch_progress.current
    batches: Any = trainer.fit_loop.epoch_loop.batch_progress
    if epochs.completed == epochs.started:  # the counts of the epoch before stand until the next one's first batch
        return 0
    done: int = batches.current.processed
    return done if batches.is_last_batch else done - done % trainer.accumulate_grad_batches


def epoch_length(trainer: "Trainer", batches: int) -> int:
    """Training batches of an epoch, of a loader that has so many: ``limit_train_batches`` is their number or share."""
    limit = trainer.limit_train_batches
    return min(limit, batches) if isinstance(limit, int) else int(batches * limit)


def begin_at(trainer: "Trainer", batches: int, length: int) -> None:
    """Let the epoch that is resumed begin behind so many batches of its ``length``."""
    progress = trainer.fit_loop.epoch_loop.batch_progress
    counts: Any = progress.current
    counts.ready = counts.started = counts.processed = counts.completed = batches
    progress.is_last_batch = batches == length


def stay_at_end(trainer: "Trainer") -> None:
    """Where the epoch that is resumed was read to its end, count it as such by the batches that it would have now."""
    if epoch_read(trainer) and math.isfinite(trainer.num_training_batches):
        begin_at(trainer, int(trainer.num_training_batches), int(trainer.num_training_batches))


def logged_steps(trainer: "Trainer") -> int:
    """The step under which Lightning logs next: batches that an optimizer stepped on, over the whole fit."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def make_loader_later(trainer: "Trainer") -> None:
    """Let a fit make its training loader when it starts, though a schedule by steps has had one made to count them.

    Lightning gives a loader its place in the epoch when it makes it, and reads the place after the schedules are made.
    """
    trainer.fit_loop._combined_loader = None


def fit_steps(trainer: "Trainer") -> tuple[int, int | None]:
    """Optimizer steps that a fit has made, and after how many it ends; None where that is not known.

    It may end before, by a callback or by its time limit.
    """
    if not trainer.lightning_module.automatic_optimization:  # then the Trainer counts the steps of each optimizer
        return trainer.global_step, None
    batches, epochs = trainer.num_training_batches, trainer.max_epochs
    ends = [trainer.max_steps] if trainer.max_steps >= 0 else []
    if epochs is not None and epochs >= 0 and math.isfinite(batches):
        ends.append(math.ceil(batches / trainer.accumulate_grad_batches) * epochs)
    return trainer.global_step, min(ends, default=None)
