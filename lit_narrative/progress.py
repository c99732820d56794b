"""Progress of a Trainer within its epoch, read off Lightning's loops, which have no public interface for it.

Lightning is imported for types only, so that every layer may import this module.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


def batches_begun(trainer: "Trainer") -> int:
    """Training batches of this epoch that the loop has fetched; after a resume those before it count too."""
    return trainer.fit_loop.epoch_loop.batch_progress.current.ready


def logged_steps(trainer: "Trainer") -> int:
    """The step under which Lightning logs next: batches that an optimizer stepped on, over the whole fit."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def restart_step(checkpoint: dict[str, Any], accumulate: int) -> None:
    """Let a resumed run repeat its optimizer step, where the checkpoint was saved between its micro-batches.

    Args:
        checkpoint: of Lightning, read whole; its counts of batches are changed in place.
        accumulate: micro-batches of an optimizer step.
    """
    # Lightning stores no gradients, so the micro-batches before the checkpoint would be lost to their step.
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    unfinished = progress["current"]["ready"] % accumulate
    for counts in (progress["current"], progress["total"]):
        for name in counts:
            counts[name] -= unfinished
