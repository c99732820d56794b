"""Optimizer, learning rate schedule and gradient clipping of language models."""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm
from transformers import PreTrainedModel, get_scheduler

from lit_narrative.errors import UserError, check_least
from lit_narrative.lm.fast.layers import fast_linear
from lit_narrative.lm.load import blocks

SLOPE = 3.4445
"""Of Muon's polynomial at 0: the steepest of a fifth degree, which does not converge on 1 (Jordan et al. 2024)."""

Schedule = Literal["constant", "linear", "cosine", "cosine_with_min_lr"]
MIN_RATE = 0.2
"""Share of the peak learning rate at which ``cosine_with_min_lr`` ends."""
MUON_LR = 0.02
"""Muon's usual learning rate, in units of an orthogonal matrix."""
OptimizerName = Literal["adamw", "muon"]


def adamw(module: nn.Module, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW over the trainable parameters, with decay on matrices but not on biases and norms.

    Raises:
        UserError: they are of float16.
    """
    return _adamw(trained_parameters(module), lr, weight_decay)


def _adamw(trained: Iterable[nn.Parameter], lr: float, weight_decay: float) -> torch.optim.AdamW:
    matrices, others = _by(trained, lambda parameter: parameter.ndim >= 2)
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=lr)


def trained_parameters(module: nn.Module) -> list[nn.Parameter]:
    """The parameters of a module that an optimizer may change.

    Raises:
        UserError: they are of float16.
    """
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    # The mean of squared gradients becomes 0 in float16, and so does epsilon: 0 / 0.
    if any(parameter.dtype == torch.float16 for parameter in trained):
        raise UserError(
            "weights of float16 cannot be trained: the optimizer would make them NaN; set model.dtype to float32 or "
            "bfloat16 (trainer.precision=16-mixed computes in float16 all the same)"
        )
    return trained


class Muon(torch.optim.Optimizer):
    """Momentum whose step is made orthogonal, for matrices (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon).

    All directions of a matrix learn at one pace. As `torch.optim.Muon`, which computes in bfloat16 everywhere: on a
    processor that has to emulate it a step takes 20 times as long.

    Args:
        params: matrices, or groups of them.
        lr: in units of the orthogonal matrix; a taller matrix takes longer steps, by the root of rows / columns.
        weight_decay: a step takes ``lr * weight_decay`` of the weights.
        momentum: share of the last steps' mean that is kept, 0 to 1.
    """

    def __init__(self, params: Iterable[Any], lr: float, weight_decay: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        """Turn and scale the momentum of each matrix, and step along it."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                mean = state["momentum"]
                mean.lerp_(weight.grad, 1 - group["momentum"])
                # Nesterov's look ahead: the step is taken along the mean as the next gradient will find it.
                turned = orthogonal(weight.grad.lerp(mean, group["momentum"]))
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                rows, columns = weight.shape
                weight.sub_(turned, alpha=group["lr"] * max(1.0, rows / columns) ** 0.5)
        return loss


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """The matrix with all its singular values between about 0.7 and 1.2, by five Newton-Schulz steps; any shape (m, n).

    In bfloat16 on accelerators, where its products are fast, and in float32 on processors.
    """
    x = matrix.to(torch.float32 if matrix.device.type == "cpu" else torch.bfloat16)
    x = x.T if matrix.shape[0] > matrix.shape[1] else x  # the products below have the shorter side
    x = x / (x.norm() + 1e-7)
    # Shards (DTensor) have no diagonal that could be added to in place.
    if type(x) is torch.Tensor and x.dtype == torch.float32 and x.shape[1] >= 2 * x.shape[0]:
        x = _product(_five_factors(_product(x, x.T)), x)
    else:
        for _ in range(5):
            x = SLOPE * x + _product(_polynomial(_product(x, x.T)), x)
    return (x.T if matrix.shape[0] > matrix.shape[1] else x).to(matrix.dtype)


def _polynomial(square: torch.Tensor) -> torch.Tensor:
    """What a step multiplies x by on its left beside ``SLOPE``, given x xᵀ, (m, m)."""
    return -4.775 * square + 2.0315 * _product(square, square)


def _newton_schulz(square: torch.Tensor) -> torch.Tensor:
    """What a step multiplies x by on its left, given x xᵀ, (m, m)."""
    factor = _polynomial(square)
    factor.diagonal().add_(SLOPE)
    return factor


def _five_factors(square: torch.Tensor) -> torch.Tensor:
    """The factors of five steps as one, (m, m): a wide x is multiplied once, and not twice a step."""
    factor = total = _newton_schulz(square)
    for _ in range(4):
        square = _product(_product(factor, square), factor)  # of the x that the step has made
        factor = _newton_schulz(square)
        total = _product(factor, total)
    return total


def _product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    return fast_linear(left, right.T, None)


class MuonAdamW(torch.optim.Optimizer):
    """Muon on the matrices of a language model's blocks, AdamW on everything else, as one optimizer.

    A new model of two layers learns to copy names in half of AdamW's steps (docs/storyworlds.md).

    Args:
        module: whose trainable parameters; it is or holds a transformers model.
        lr: of AdamW: on embeddings, output layer, heads, biases and norms.
        weight_decay: on matrices.
        muon_lr: of Muon.

    Raises:
        UserError: the parameters are of float16, or none of them is a matrix of a block.
    """

    def __init__(self, module: nn.Module, lr: float, weight_decay: float, muon_lr: float) -> None:
        # Not embedding and output layer: a row there is a token, and orthogonal rows would move rare ones as much as
        # common ones.
        root = next(part for part in module.modules() if isinstance(part, PreTrainedModel))
        inner = {id(parameter) for block in blocks(root) for parameter in block.parameters()}
        matrices, others = _by(trained_parameters(module), lambda one: one.ndim == 2 and id(one) in inner)
        if not matrices:
            raise UserError("model.optimizer=muon finds no matrix to train in the model's blocks; take adamw")
        # Adapters have matrices only, and AdamW takes no empty list.
        self.parts: list[torch.optim.Optimizer] = [_adamw(others, lr, weight_decay)] if others else []
        self.parts.append(Muon(matrices, muon_lr, weight_decay))
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        # Groups and state are one for all, so that schedules, checkpoints and shards see a usual optimizer.
        start = 0
        for part in self.parts:
            end = start + len(part.param_groups)
            part.param_groups, part.state, start = self.param_groups[start:end], self.state, end

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take up a stored state."""
        super().__setstate__(state)
        self._share()

    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        """One step of each."""
        loss = None if closure is None else closure()
        for part in self.parts:
            part.step()
        return loss


def _by(parameters: Iterable[nn.Parameter], test: Callable[[nn.Parameter], bool]) -> tuple[list[nn.Parameter], ...]:
    rows = [(test(parameter), parameter) for parameter in parameters]
    return [p for passed, p in rows if passed], [p for passed, p in rows if not passed]


def schedule_by_step(
    optimizer: torch.optim.Optimizer, schedule: Schedule, warmup_steps: int, total_steps: int | None
) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear warm-up, then the schedule, in optimizer steps; ``constant`` needs no total."""
    name = "constant_with_warmup" if schedule == "constant" else schedule
    floor = {"min_lr_rate": MIN_RATE} if schedule == "cosine_with_min_lr" else None
    return get_scheduler(name, optimizer, warmup_steps, total_steps, scheduler_specific_kwargs=floor)


class GradientGuard:
    """Clips gradients, and drops those that are not finite.

    Args:
        max_skipped_steps: number of dropped steps in a row at which training stops, 1 or more.
        owner: of the settings, for messages.

    Attributes:
        skipped: optimizer steps dropped so far.
        in_a_row: steps dropped since the last finite gradient.
    """

    def __init__(self, max_skipped_steps: int, owner: str = "model") -> None:
        check_least(f"{owner}.max_skipped_steps", max_skipped_steps, 1)
        self.max_skipped_steps, self.owner = max_skipped_steps, owner
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
                f"{float(norm)}), so the weights cannot move; lower {self.owner}.lr, set trainer.gradient_clip_val=1 "
                f"or {self.owner}.warmup_steps, or use trainer.precision=32-true; {self.owner}.max_skipped_steps sets "
                "the limit"
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
