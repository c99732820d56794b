"""Decoding a group behind one copy of its prompt.

On the CPU a decoding step spends most of its attention on reading keys and values from memory. The completions of a
group read those of their prompt from a single copy here, all of them in one product, and only their own beside it; the
prompt's are never repeated. Registered with the library as an attention function, it serves every model that takes one.

Notation: R rows, U prompts, n most living rows of a prompt, P longest prompt, T tokens so far, H key heads, g query
heads a key head, D head width.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, Cache, PreTrainedModel

from lit_narrative.lm.kv_cache import BufferedLayer, plain_attention

NAME = "lit_narrative_grouped"

# What attention functions are handed and one new token a row, without dropout, has no use for.
HARMLESS = {
    "cache_position",
    "dropout",
    "is_causal",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "position_ids",
    "use_cache",
}


def can_group(base: PreTrainedModel) -> bool:
    """Whether ``base`` decodes this way: in float32 and on the CPU (a GPU gains more by the library's one kernel)."""
    if not base._supports_attention_backend or base.config._attn_implementation != "sdpa" or not plain_attention(base):
        return False
    return base.device.type == "cpu" and base.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


class Groups:
    """The prompts' keys and values, and which prompt each living row continues.

    Args:
        prompts: a cache of :class:`BufferedLayer` that has read the prompts, U rows of P positions.
        mask: (U, P) bool, true where a prompt has a token.
        owner: (R,) the prompt of each row, ascending.
        capacity: tokens of a completion at most.
    """

    def __init__(self, prompts: Cache, mask: torch.Tensor, owner: torch.Tensor, capacity: int) -> None:
        self.prompts = [layer for layer in prompts.layers if isinstance(layer, BufferedLayer)]
        self.own = [BufferedLayer(capacity) for _ in self.prompts]
        self.cache = Cache(layers=list(self.own))
        self.bias = None if mask.all() else torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)[:, None, None]
        self.owner = owner
        self._arrange()

    def select(self, rows: torch.Tensor) -> None:
        """Keep only ``rows``."""
        for layer in self.own:
            layer.select(rows)
        self.owner = self.owner[rows]
        self._arrange()

    def _arrange(self) -> None:
        """Give each row a place in a grid of U x n."""
        counts = self.owner.bincount(minlength=self._count)
        self.width = int(counts.max())
        first = counts.cumsum(0) - counts
        self.place = self.owner * self.width + torch.arange(len(self.owner)) - first[self.owner]
        self.full = len(self.place) == self._count * self.width

    @property
    def _count(self) -> int:
        return self.prompts[0].keys.shape[0]  # type: ignore[union-attr]

    def to_grid(self, rows: torch.Tensor) -> torch.Tensor:
        """(R, H, g, x) to (U, H, n g, x)."""
        if not self.full:
            rows = rows.new_zeros(self._count * self.width, *rows.shape[1:]).index_copy_(0, self.place, rows)
        return rows.unflatten(0, (self._count, self.width)).transpose(1, 2).flatten(2, 3)

    def to_rows(self, grid: torch.Tensor, heads: int) -> torch.Tensor:
        """(U, H, n g, x) to (R, H, g, x), with g = ``heads``."""
        rows = grid.unflatten(2, (self.width, heads)).transpose(1, 2).flatten(0, 1)
        return rows if self.full else rows[self.place]


def grouped_attention(
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
    """Attention of one new token a row to its prompt and to its own tokens.

    Args:
        module: the attention block.
        query: (R, H g, 1, D).
        key: (R, H, T, D).
        value: (R, H, T, D).
        attention_mask: None: a row sees all of its own tokens.
        groups: the prompts.
        scaling: of the products; default: 1 / sqrt(D).
        **kwargs: what else the library hands over.

    Returns:
        (R, 1, H g, D), and no weights.

    Raises:
        NotImplementedError: the model wants more of its attention than this.
    """
    given = {"attention_mask": attention_mask, **kwargs}
    if wanted := [name for name, value in given.items() if value is not None and name not in HARMLESS]:
        raise NotImplementedError(f"grouped attention does not know {', '.join(wanted)}")
    prompt = groups.prompts[module.layer_idx]  # type: ignore[index]
    assert prompt.keys is not None and prompt.values is not None
    rows, heads = key.shape[:2]
    query = (query * (query.shape[-1] ** -0.5 if scaling is None else scaling)).view(rows, heads, -1, query.shape[-1])
    shared = groups.to_grid(query) @ prompt.keys.transpose(-1, -2)  # (U, H, n g, P)
    if groups.bias is not None:
        shared = shared + groups.bias
    scores = torch.cat([groups.to_rows(shared, query.shape[2]), query @ key.transpose(-1, -2)], dim=-1)
    weights = scores.softmax(-1)  # (R, H, g, P + T)
    width = shared.shape[-1]
    out = groups.to_rows(groups.to_grid(weights[..., :width]) @ prompt.values, query.shape[2])
    out = out + weights[..., width:] @ value
    return out.reshape(rows, 1, -1, out.shape[-1]), None


AttentionInterface.register(NAME, grouped_attention)  # type: ignore[arg-type]


def grouped(base: PreTrainedModel) -> AbstractContextManager[None]:
    """Let ``base`` attend by :func:`grouped_attention` for a while; calls hand over ``groups``."""
    return attending(base, NAME)


@contextmanager
def attending(base: PreTrainedModel, name: str) -> Iterator[None]:
    """Let ``base`` attend by a registered function for a while."""
    before = base.config._attn_implementation
    base.config._attn_implementation = name
    try:
        yield
    finally:
        base.config._attn_implementation = before
