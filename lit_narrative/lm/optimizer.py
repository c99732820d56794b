"""The optimizer and schedule of language models."""

from typing import Literal

import torch
from torch import nn
from transformers import get_scheduler

Schedule = Literal["constant", "linear", "cosine"]


def adamw(module: nn.Module, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW over the trainable parameters, with decay on matrices but not on biases and norms."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=lr)


def schedule_by_step(
    optimizer: torch.optim.Optimizer, schedule: Schedule, warmup_steps: int, total_steps: int | None
) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear warm-up, then the schedule, in optimizer steps; ``constant`` needs no total."""
    name = "constant_with_warmup" if schedule == "constant" else schedule
    return get_scheduler(name, optimizer, num_warmup_steps=warmup_steps, num_training_steps=total_steps)
