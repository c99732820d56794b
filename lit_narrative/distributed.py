"""Collective operations between the processes of a run: gathering tensors, values and lists.

Lightning is imported for types only, so that every layer may import this module.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

Item = TypeVar("Item")


def gather(module: "LightningModule", values: torch.Tensor) -> torch.Tensor:
    """Rows of all processes, (W n, ...) of (n, ...) each, in order of rank, on the CPU."""
    # The backend of the process group takes tensors of the module's device only. One process adds no first dimension.
    gathered: Any = module.all_gather(values.to(module.device))
    return gathered.flatten(0, gathered.ndim - values.ndim).cpu() if gathered.ndim > values.ndim else gathered.cpu()


def gather_ragged(gather: Callable[[torch.Tensor], torch.Tensor], values: torch.Tensor) -> torch.Tensor:
    """(n,) values of all processes, which may have different numbers of them; ``gather`` takes equal numbers only."""
    # A collective with tensors of unequal shape hangs or corrupts memory: values are padded to the largest number.
    counts = gather(torch.tensor([len(values)])).tolist()
    padded = torch.nn.functional.pad(values, (0, max(counts) - len(values)))
    return torch.cat([row[:count] for row, count in zip(gather(padded[None]), counts, strict=True)])


def sum_gradients(module: torch.nn.Module) -> None:
    """Add up the gradients of a module that every process holds whole, over all processes; one may have none."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    for parameter in module.parameters():
        if parameter.requires_grad:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            torch.distributed.all_reduce(parameter.grad)


def gather_objects(trainer: "Trainer | None", value: Item) -> list[Item]:
    """The value of each process, in order of rank, on every process; without a Trainer there is one process."""
    if trainer is None or trainer.world_size == 1:
        return [value]
    values = [value] * trainer.world_size
    torch.distributed.all_gather_object(values, value)
    return values


def gather_lists(trainer: "Trainer", items: Sequence[Item]) -> list[Item]:
    """The items of all processes, in order of rank, on every process."""
    return [item for part in gather_objects(trainer, list(items)) for item in part]
