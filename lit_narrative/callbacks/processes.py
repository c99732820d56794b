"""What callbacks ask of a run: lists of all its processes, and whether it only tries things out."""

from collections.abc import Sequence
from typing import TypeVar

from lightning.pytorch import Trainer

from lit_narrative.modules.processes import gather_objects

Item = TypeVar("Item")


def gather_lists(trainer: Trainer, items: Sequence[Item]) -> list[Item]:
    """The items of all processes, in order of rank, on every process."""
    return [item for part in gather_objects(trainer, list(items)) for item in part]


def dry_run(trainer: Trainer) -> bool:
    """Whether this is a ``fast_dev_run``, which writes nothing and samples little."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]
