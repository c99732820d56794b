"""A model whose weights are spread over processes (FSDP2): each holds a share and borrows the rest block by block."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from lit_narrative.lm.load import blocks
from lit_narrative.lm.logprobs import TokenScores, score_tokens


def shard(module: nn.Module, mesh: DeviceMesh, dtype: torch.dtype | None = None) -> None:
    """Spread the weights of ``module`` over the processes of ``mesh``, in place; does nothing if they are.

    Outside of its forward and backward pass every parameter is this process's share, a ``DTensor``. Of a language model
    each block is gathered on its own, and what is left (embeddings, last norm) with the root. With adapters around it
    the transformers model inside is what is sharded: peft calls it directly.

    Args:
        module: a transformers model with or without adapters, or any other module, which is gathered as a whole.
        mesh: one dimension of processes, on the device where the weights shall be.
        dtype: what blocks compute in and weights are gathered in; gradients are added up in float32. Default: the
            weights' own.
    """
    root = next((part for part in module.modules() if isinstance(part, PreTrainedModel)), module)
    if isinstance(root, FSDPModule):
        return
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=dtype and torch.float32)
    for part in (*reversed(blocks(root)), root):
        # By default a root stays gathered after its forward: parameters would be shares at some times only.
        fully_shard(part, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    if isinstance(root, PreTrainedModel):
        root.score_tokens = MethodType(_score_tokens, root)  # type: ignore[assignment]
        root.settle = MethodType(_settle, root)  # type: ignore[assignment]
        for method in ("score_tokens", "settle"):
            register_fsdp_forward_method(root, method)


def _score_tokens(base: nn.Module, *args: Any, **kwargs: Any) -> TokenScores:
    """As ``score_tokens``; copies, because hooks of FSDP2 on views would be lost to operations in place."""
    logprobs, entropy, values = score_tokens(base, *args, **kwargs)
    return TokenScores(logprobs.clone(), entropy.clone(), None if values is None else values.clone())


def _settle(base: nn.Module) -> None:
    """Nothing, as the first forward of the root: FSDP2 takes for a root what is called first, be it a block."""


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Keep the weights of ``module`` whole on every process for a while; does nothing if they are not sharded.

    Within, a forward without gradient, of the whole or of a part, needs no other process: each may run as many as it
    likes. All processes have to enter. It nests.
    """
    parts = [part for part in module.modules() if isinstance(part, FSDPModule)]
    outermost = any(isinstance(parameter, DTensor) for parameter in module.parameters())
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
        if isinstance(part, PreTrainedModel):
            part.settle()  # type: ignore[operator]
    try:
        yield
    finally:
        if outermost:
            for part in parts:
                part.reshard()
                part.set_reshard_after_forward(True, recurse=False)
