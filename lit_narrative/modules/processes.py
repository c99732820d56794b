"""What the processes of a run tell each other."""

from typing import Any

import torch
from lightning.pytorch import LightningModule


def gather(module: LightningModule, values: torch.Tensor) -> torch.Tensor:
    """Rows of all processes, (W n, ...) of (n, ...) each, in order of rank, on the CPU."""
    gathered: Any = module.all_gather(values.to(module.device))
    return gathered.flatten(0, gathered.ndim - values.ndim).cpu() if gathered.ndim > values.ndim else gathered.cpu()


def gather_ragged(module: LightningModule, values: torch.Tensor) -> torch.Tensor:
    """(n,) values of all processes, which may have different numbers of them."""
    counts = gather(module, torch.tensor([len(values)])).tolist()
    padded = torch.nn.functional.pad(values, (0, max(counts) - len(values)))
    return torch.cat([row[:count] for row, count in zip(gather(module, padded[None]), counts, strict=True)])


def gather_objects(module: LightningModule, value: Any) -> list[Any]:
    """What each process has, in order of rank; without a Trainer there is one."""
    if module._trainer is None or module.trainer.world_size == 1:
        return [value]
    values: list[Any] = [None] * module.trainer.world_size
    torch.distributed.all_gather_object(values, value)
    return values
