"""What callbacks ask of a run: lists of all its processes, and whether it only tries things out."""

from collections.abc import Sequence
from typing import TypeVar

import torch
from lightning.pytorch import Trainer

Item = TypeVar("Item")


def gather_lists(trainer: Trainer, items: Sequence[Item]) -> list[Item]:
    """The items of all processes, in order of rank, on every process."""
    if trainer.world_size == 1:
        return list(items)
    lists: list[Sequence[Item]] = [[]] * trainer.world_size
    torch.distributed.all_gather_object(lists, list(items))
    return [item for part in lists for item in part]


def dry_run(trainer: Trainer) -> bool:
    """Whether this is a ``fast_dev_run``, which writes nothing and samples little."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]
