"""Faster modules that compute the same function, put into every model that is built or loaded.

Parameters, their names and the config stay as they are: checkpoints, adapters and exports do not change, and what is
saved loads anywhere.

- The tanh GELU of transformers is a chain of eager operations, each of which keeps its result for the backward pass;
  PyTorch has it as one kernel.
- PyTorch multiplies float32 matrices on the CPU by MKL, which does not use AVX-512 on processors other than Intel's;
  oneDNN, which PyTorch ships too, does (measured on an AMD EPYC: 2.2 times as fast, equal to rounding).
- The backward pass of Llama's norm is a chain of operations, too.
"""

import ctypes
import os
import sys
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel
from transformers.activations import FastGELUActivation, NewGELUActivation
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.pytorch_utils import Conv1D

# oneDNN compiles a kernel for every shape (0.2 to 0.4 ms, two products of the smaller size below). The few shapes of
# decoding steps recur, and pay for it in time; any other shape is taken only if it is large enough, as it comes back in
# every block. In multiplications and additions.
FEW_ROWS, FEW_ROWS_OPERATIONS, OPERATIONS = 256, 4e6, 3e7
# Kernels that are kept, half a MiB each. Batches of texts have ever new shapes: with the default of 1,024 a run grew by
# a GiB. The first variable is oneDNN's, the second of what stands between it and PyTorch, which keeps them, too.
KERNELS, CACHES = "128", ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
# From so many parameters on, large tensors get pages of their own. Below, the time to map them would show.
LARGE_MODEL = 50_000_000
OWN_PAGES = 2**20
"""Bytes of such a tensor."""
_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h


def use_faster_modules(lm: PreTrainedModel) -> PreTrainedModel:
    """Swap modules of ``lm`` in place for faster ones of the same function; other types are left alone."""
    if _AVAILABLE:
        # They are read at the first use in the process; a value that the user has set is kept.
        for name in CACHES:
            os.environ.setdefault(name, KERNELS)
    if sum(parameter.numel() for parameter in lm.parameters()) >= LARGE_MODEL:
        give_pages_back()
    for module in lm.modules():
        # The class is changed in place of the module, so that tied weights, hooks and names of parameters survive.
        # Subclasses (quantised layers, adapters) have a forward method that is not ours to replace.
        if type(module) is nn.Linear:
            module.__class__ = FastLinear
        elif type(module) is Conv1D:
            module.__class__ = FastConv1D
        elif type(module) is LlamaRMSNorm:
            module.__class__ = FastRMSNorm
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation | FastGELUActivation):
                setattr(module, name, nn.GELU(approximate="tanh"))
    return lm


def give_pages_back() -> None:
    """Let glibc return the memory of every large tensor that is freed, unless the user has set its threshold.

    By default it keeps those of up to 32 MiB, and the gaps between what is still in use go to waste: adapters of
    SmolLM2-135M on 4 x 600 tokens take 5.3 GiB that way, and 3.2 GiB this way.
    """
    if sys.platform == "linux" and "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):  # musl has none
            libc.mallopt(_M_MMAP_THRESHOLD, OWN_PAGES)


class FastLinear(nn.Linear):
    """A linear layer whose float32 product on the CPU is oneDNN's where that pays."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(..., in) to (..., out)."""
        return fast_linear(input, self.weight, self.bias)


def fast_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """``x @ weight.T + bias``, through oneDNN where that pays."""
    return linear(x, weight, bias) if onednn_pays(x, weight) else nn.functional.linear(x, weight, bias)


class FastConv1D(Conv1D):
    """GPT-2's linear layer, its weight (in, out), in the same way."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) to (..., out)."""
        if onednn_pays(x, self.weight):
            return linear(x, self.weight.t(), self.bias)
        return super().forward(x)  # type: ignore[no-any-return]


class FastRMSNorm(LlamaRMSNorm):
    """Llama's norm, with a backward pass of its own: that of its operations took eight times the forward pass."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(..., d) to (..., d)."""
        plain = hidden_states.is_cpu and hidden_states.dtype == self.weight.dtype == torch.float32
        if plain and torch.is_grad_enabled():
            return _RMSNorm.apply(hidden_states, self.weight, self.variance_epsilon)  # type: ignore[no-any-return,no-untyped-call]
        return super().forward(hidden_states)  # type: ignore[no-any-return]


class _RMSNorm(torch.autograd.Function):
    """y = w u with u = x / sqrt(mean x² + ε); dx = (h - u mean(h u)) / sqrt(mean x² + ε), where h = w dy."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        inverse = (x.square().mean(-1, keepdim=True) + epsilon).rsqrt_()
        unit = x * inverse
        ctx.save_for_backward(unit, inverse, weight)
        return weight * unit

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        unit, inverse, weight = ctx.saved_tensors
        along = grad * unit
        of_weight = along.flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        # The mean of h u, row by row.
        mean = (along @ weight).unsqueeze(-1) / unit.shape[-1]
        return (grad * weight).addcmul_(unit, mean, value=-1).mul_(inverse), of_weight, None


def onednn_pays(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether to multiply (..., in) by a matrix through oneDNN: a matter of shapes alone, so that runs repeat."""
    if not (x.dtype == weight.dtype == torch.float32 and x.is_cpu and weight.is_cpu and _AVAILABLE):
        return False
    rows = x.numel() // x.shape[-1]
    operations = 2 * rows * weight.numel()
    enough = operations >= OPERATIONS or (rows <= FEW_ROWS and operations >= FEW_ROWS_OPERATIONS)
    # A subclass (DTensor, fake tensor of a trace) has its own dispatch, which the kernel would bypass.
    plain = isinstance(weight, nn.Parameter) or type(weight) is torch.Tensor
    return enough and plain and _onednn_enabled() and not torch.is_autocast_enabled("cpu")


def _onednn_enabled() -> bool:
    return torch._C._get_mkldnn_enabled()


# On other processors the product of PyTorch is as fast, or uses oneDNN already.
_AVAILABLE = torch.backends.mkldnn.is_available() and "AVX512" in torch.backends.cpu.get_cpu_capability()


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """``x @ weight.T + bias`` through oneDNN, differentiable once.

    Args:
        x: (..., in) float32.
        weight: (out, in) float32, of any strides.
        bias: (out,) or None.
    """
    if torch.is_grad_enabled():
        return _Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call,no-any-return]
    return _product(x, weight, bias)


def _product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")  # type: ignore[no-any-return]


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        # Frozen weights (those under adapters) need no inputs in the backward pass; keeping them would cost memory.
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight if ctx.needs_input_grad[0] else None)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        rows = grad.flatten(0, -2)
        return (
            _product(grad, weight.t()) if wants_x else None,
            _outer(rows, x.flatten(0, -2)) if wants_weight else None,
            rows.sum(0) if wants_bias else None,
        )


def _outer(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """``left.T @ right``; oneDNN copies the transposed first factor, so the narrower one goes there."""
    if left.shape[1] <= right.shape[1]:
        return _product(left.t(), right.t())
    return _product(right.t(), left.t()).t()
