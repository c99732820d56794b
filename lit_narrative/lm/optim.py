"""Optimizer, learning rate schedule and gradient clipping of language models."""

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm
from transformers import get_scheduler

from lit_narrative.errors import UserError, check_least

Schedule = Literal["constant", "linear", "cosine"]


def adamw(module: nn.Module, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW over the trainable parameters, with decay on matrices but not on biases and norms.

    Raises:
        UserError: they are of float16.
    """
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    # The mean of squared gradients becomes 0 in float16, and so does epsilon: 0 / 0.
    if any(parameter.dtype == torch.float16 for parameter in trained):
        raise UserError(
            "weights of float16 cannot be trained: AdamW would make them NaN; set model.dtype to float32 or bfloat16 "
            "(trainer.precision=16-mixed computes in float16 all the same)"
        )
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


class GradientGuard:
    """Clips gradients, and drops those that are not finite.

    Args:
        max_skipped_steps: number of dropped steps in a row at which training stops, 1 or more.

    Attributes:
        skipped: optimizer steps dropped so far.
        in_a_row: steps dropped since the last finite gradient.
    """

    def __init__(self, max_skipped_steps: int) -> None:
        check_least("model.max_skipped_steps", max_skipped_steps, 1)
        self.max_skipped_steps = max_skipped_steps
        self.skipped = self.in_a_row = 0

    def clip(
        self,
        optimizer: torch.optim.Optimizer,
        value: float | None,
        algorithm: str | None,
        scaler: torch.amp.GradScaler | None = None,
    ) -> torch.Tensor:
        """Clip the gradients for a step, or drop them.

        Args:
            optimizer: whose parameters have gradients.
            value: clip to it; None or 0 is off.
            algorithm: ``norm`` (the default) or ``value``.
            scaler: of float16 training. It finds its scale by lowering it after each overflow: such a step is dropped
                and counted, but counts as divergence only when the scale is down to 1.

        Returns:
            The norm of all gradients before clipping, a scalar.

        Raises:
            UserError: too many steps in a row were dropped.
        """
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = gradient_norm(p.grad for p in parameters)
        if not bool(norm.isfinite()):
            # The optimizer skips parameters without a gradient, so its step leaves weights and moments alone.
            for parameter in parameters:
                parameter.grad = None
            self._count(norm, searching=scaler is not None and scaler.get_scale() > 1)
            return norm
        self.in_a_row = 0
        if value:
            # As `clip_grad_norm_` does, without computing the norm a second time.
            factor = min(value / (float(norm) + 1e-6), 1.0)
            for parameter in parameters:
                if algorithm == "value":
                    parameter.grad.clamp_(-value, value)
                elif factor < 1:
                    parameter.grad.mul_(factor)
        return norm

    def _count(self, norm: torch.Tensor, searching: bool) -> None:
        self.skipped += 1
        self.in_a_row += not searching
        if self.in_a_row >= self.max_skipped_steps:
            raise UserError(
                f"the gradients of {self.in_a_row} optimizer steps in a row were not finite (their norm is "
                f"{float(norm)}), so the weights cannot move; lower model.lr, set trainer.gradient_clip_val=1 or "
                "model.warmup_steps, or use trainer.precision=32-true; model.max_skipped_steps sets the limit"
            )

    def state_dict(self) -> dict[str, int]:
        """The counts, for a checkpoint."""
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from stored counts."""
        self.skipped, self.in_a_row = state["skipped"], state["in_a_row"]


def gradient_norm(gradients: Iterable[torch.Tensor | None]) -> torch.Tensor:
    """The Euclidean norm of all gradients as one vector, a scalar; sharded gradients count whole, on every process."""
    kinds: dict[bool, list[torch.Tensor]] = {}  # no operation takes sharded and plain gradients together
    for gradient in gradients:
        if gradient is not None:
            kinds.setdefault(isinstance(gradient, DTensor), []).append(gradient)
    norms: list[Any] = [get_total_norm(kind) for kind in kinds.values()]
    whole = [(norm.full_tensor() if isinstance(norm, DTensor) else norm).float() for norm in norms]
    return torch.stack(whole).norm() if whole else torch.zeros(())
