"""Models whose weights are sharded over processes (FSDP2): each holds a shard and gathers the rest block by block."""

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

from lit_narrative.errors import UserError
from lit_narrative.lm.load import blocks
from lit_narrative.lm.logprobs import TokenScores, score_tokens


def shard(module: nn.Module, mesh: DeviceMesh, dtype: torch.dtype | None = None) -> None:
    """Shard the weights of ``module`` over the processes of ``mesh``, in place; does nothing if they are sharded.

    Outside of its forward and backward pass every parameter is this process's shard, a ``DTensor``. The blocks of a
    language model are gathered one by one, and the rest (embeddings, last norm) with the root. With adapters, the
    transformers model inside is sharded: peft calls it directly.

    Args:
        module: a transformers model with or without adapters, or any other module, which is gathered as a whole.
        mesh: one dimension of processes, on the device that the weights move to.
        dtype: in which blocks compute and weights are gathered; gradients are summed in float32. Default: the dtype of
            the weights.

    Raises:
        UserError: weights are held in 4 bits.
    """
    if not all(parameter.is_floating_point() for parameter in module.parameters()):
        raise UserError("model.lora.quantization: weights in 4 bits are not spread over processes; take strategy ddp")
    root = next((part for part in module.modules() if isinstance(part, PreTrainedModel)), module)
    if isinstance(root, FSDPModule):
        return
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=dtype and torch.float32)
    for part in (*reversed(blocks(root)), root):
        # By default the root stays gathered after its forward: its parameters would be shards at some times only.
        fully_shard(part, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    if isinstance(root, PreTrainedModel):
        root.score_tokens = MethodType(_score_tokens, root)  # type: ignore[assignment]
        root.settle = MethodType(_settle, root)  # type: ignore[assignment]
        for method in ("score_tokens", "settle"):
            register_fsdp_forward_method(root, method)


def _score_tokens(base: nn.Module, *args: Any, **kwargs: Any) -> TokenScores:
    """As ``score_tokens``, with copies: an in-place operation on a view would drop the hooks that FSDP2 puts on it."""
    logprobs, *others = score_tokens(base, *args, **kwargs)
    return TokenScores(logprobs.clone(), *(None if values is None else values.clone() for values in others))


def _settle(base: nn.Module) -> None:
    """An empty first forward of the root: FSDP2 takes for the root whatever is called first, even a block."""


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Within the context the weights of ``module`` are whole on every process; does nothing if they are not sharded.

    A forward without gradient, of the whole or of a part, then needs no other process: each may run as many as it has.
    All processes have to enter. Contexts may be nested.
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
        # An inner context must leave the weights whole: only the one that gathered them shards them again.
        if outermost:
            for part in parts:
                part.reshard()
                part.set_reshard_after_forward(True, recurse=False)
