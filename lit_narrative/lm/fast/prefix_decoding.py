"""Decoding the completions of a group behind one copy of their prompt's keys and values.

On the CPU a decoding step spends most of its attention on reading keys and values from memory. Here all completions of
a group read those of their prompt from a single copy, in one matrix product; only the keys and values of the completion
are kept per row. The function is registered with transformers by name and serves every model that looks its attention
up by name.

Notation: R rows, U prompts, n largest number of rows of one prompt, P longest prompt, T completion tokens so far, H key
heads, g query heads per key head, D head width.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, Cache, PreTrainedModel

from lit_narrative.lm.fast.kv_cache import BufferedLayer, plain_attention
from lit_narrative.lm.load import attention_function, attention_name, takes_attention_functions

NAME = "lit_narrative_prefix"

# Arguments that transformers passes to every attention function and that do not change the result for one new token a
# row without dropout. Any other that is set is refused: a model that asks for it would silently get plain attention.
IGNORED_ARGUMENTS = {
    "cache_position",
    "dropout",
    "is_causal",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "position_ids",
    "use_cache",
}


def can_share_prefix(base: PreTrainedModel) -> bool:
    """Whether ``base`` may decode this way: in float32 on the CPU (on a GPU the fused kernel of PyTorch is faster)."""
    if not takes_attention_functions(base) or attention_name(base) != "sdpa" or not plain_attention(base):
        return False
    return base.device.type == "cpu" and base.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


class Groups:
    """The prompts' keys and values, and which prompt each unfinished row continues.

    Rows are laid out in a grid of U x n, one line a prompt, so that one batched product per key head serves all rows of
    all prompts. Cells of prompts with fewer rows are zeros, whose results are dropped.

    Args:
        prompts: a cache of `BufferedLayer` that has read the prompts, U rows of P positions.
        mask: (U, P) bool, true where a prompt has a token.
        owner: (R,) the prompt of each row, ascending.
        capacity: tokens of a completion at most.
    """

    def __init__(self, prompts: Cache, mask: torch.Tensor, owner: torch.Tensor, capacity: int) -> None:
        self.prompts = [layer for layer in prompts.layers if isinstance(layer, BufferedLayer)]
        self.completions = [BufferedLayer(capacity) for _ in self.prompts]
        self.cache = Cache(layers=list(self.completions))
        # Added to the scores, so that padding has weight 0; with prompts of one length there is none.
        self.bias = None if mask.all() else torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)[:, None, None]
        self.owner = owner
        self._arrange()

    def select(self, rows: torch.Tensor) -> None:
        """Keep only ``rows``."""
        for layer in self.completions:
            layer.select(rows)
        left, self.owner = self.owner[rows].unique(return_inverse=True)
        if len(left) < self._count:  # prompts without rows leave, too
            for layer in self.prompts:
                layer.select(left)
            self.bias = None if self.bias is None else self.bias[left]
        self._arrange()

    def _arrange(self) -> None:
        """Give each row a cell in the grid: the rows of a prompt follow each other in ``owner``."""
        counts = self.owner.bincount(minlength=self._count)
        self.width = int(counts.max())
        first = counts.cumsum(0) - counts
        self.cell = self.owner * self.width + torch.arange(len(self.owner)) - first[self.owner]
        self.full = len(self.cell) == self._count * self.width

    @property
    def _count(self) -> int:
        return self.prompts[0].keys.shape[0]  # type: ignore[union-attr]

    def to_grid(self, rows: torch.Tensor) -> torch.Tensor:
        """(R, H, g, x) to (U, H, n g, x)."""
        if not self.full:
            rows = rows.new_zeros(self._count * self.width, *rows.shape[1:]).index_copy_(0, self.cell, rows)
        return rows.unflatten(0, (self._count, self.width)).transpose(1, 2).flatten(2, 3)

    def to_rows(self, grid: torch.Tensor, heads: int) -> torch.Tensor:
        """(U, H, n g, x) to (R, H, g, x), with g = ``heads``."""
        rows = grid.unflatten(2, (self.width, heads)).transpose(1, 2).flatten(0, 1)
        return rows if self.full else rows[self.cell]


def refuse_arguments(function: str, **given: Any) -> None:
    """Refuse arguments of an attention function that would change its result.

    Raises:
        NotImplementedError: naming those that are set and not among ``IGNORED_ARGUMENTS``.
    """
    if unknown := [name for name, value in given.items() if value is not None and name not in IGNORED_ARGUMENTS]:
        raise NotImplementedError(f"{function} does not implement {', '.join(unknown)}")


def prefix_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    groups: Groups,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of one new token a row to its prompt and to the tokens of its completion.

    Args:
        module: the attention block.
        query: (R, H g, 1, D).
        key: (R, H, T, D).
        value: (R, H, T, D).
        attention_mask: must be None: a row sees all tokens of its completion.
        groups: the prompts.
        scaling: of the products; default: 1 / sqrt(D).
        **kwargs: further arguments of transformers.

    Returns:
        (R, 1, H g, D), and no weights.

    Raises:
        NotImplementedError: the model asks for an argument that this function does not implement.
    """
    refuse_arguments("prefix attention", attention_mask=attention_mask, **kwargs)
    scaled = query.squeeze(2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    return attend(scaled, [(key, value)], groups, module.layer_idx).unflatten(-1, (1, -1, query.shape[-1])), None  # type: ignore[arg-type]


def attend(
    query: torch.Tensor, past: Sequence[tuple[torch.Tensor, torch.Tensor]], groups: Groups, layer: int
) -> torch.Tensor:
    """Attention of block ``layer``, each row with one scaled query a head.

    Args:
        query: (R, H g, D).
        past: keys and values of the completions, (R, H, t, D) each, in pieces whose t add up to T.
        groups: the prompts.
        layer: the block.

    Returns:
        (R, H g D).
    """
    prompt = groups.prompts[layer]
    assert prompt.keys is not None and prompt.values is not None
    rows, heads = past[0][0].shape[:2]
    # The heads of one key head lie side by side in `query`, so that a view groups them.
    query = query.view(rows, heads, -1, query.shape[-1])
    shared = groups.to_grid(query) @ prompt.keys.transpose(-1, -2)  # (U, H, n g, P)
    if groups.bias is not None:
        shared = shared + groups.bias
    # One softmax over prompt and completion together: two would need to be merged by their normalisers.
    own = [query @ keys.transpose(-1, -2) for keys, _ in past]
    weights = torch.cat([groups.to_rows(shared, query.shape[2]), *own], dim=-1).softmax(-1)  # (R, H, g, P + T)
    of_prompt, *of_past = weights.split([shared.shape[-1], *(part.shape[-1] for part in own)], dim=-1)
    out = groups.to_rows(groups.to_grid(of_prompt) @ prompt.values, query.shape[2])
    for part, (_, values) in zip(of_past, past, strict=True):
        out = out + part @ values
    return out.flatten(1)


AttentionInterface.register(NAME, prefix_attention)  # type: ignore[arg-type]


def prefix_decoding(base: PreTrainedModel) -> AbstractContextManager[None]:
    """Within the context ``base`` attends by `prefix_attention`; every call has to pass ``groups``."""
    return attention_function(base, NAME)
