"""Lists shared among the processes of a run."""

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
