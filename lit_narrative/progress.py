"""Progress of a Trainer within its epoch, read off Lightning's loops, which have no public interface for it.

Lightning is imported for types only, so that every layer may import this module.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


def batches_begun(trainer: "Trainer") -> int:
    """Training batches of this epoch that the loop has fetched; after a resume those before it count too."""
    return trainer.fit_loop.epoch_loop.batch_progress.current.ready


def logged_steps(trainer: "Trainer") -> int:
    """The step under which Lightning logs next: batches that an optimizer stepped on, over the whole fit."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped
