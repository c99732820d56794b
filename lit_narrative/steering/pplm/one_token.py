"""Reading one token behind buffers of keys and values, and the gradient with regard to them as outer products.

The loss of one token depends on a key of the past through one product with one query: the gradient of all keys of a
head is ds q', an outer product of T and D numbers, that of its values w do'. So the backward pass never writes
gradients as large as the past, their norms come from the factors, and a step is one product added in place.

Notation: L blocks, B rows, H key heads, g query heads a key head, C columns of the buffers, D head width, N = B H.
"""

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, Cache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from lit_narrative.lm.logprobs import output_logits
from lit_narrative.lm.prefix_decoding import HARMLESS, attending

NAME = "lit_narrative_one_token"
Factors = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
"""Of one block: ds (N, g, C), queries (N, g, D), attention weights (N, g, C), do (N, g, D)."""


class Slots:
    """Where one block's keys and values are, as its attention sees them.

    Attributes:
        keys: (N, C, D), with room for the new token.
        values: (N, C, D).
        bias: (N, 1, C), 0 where a column is seen, else -inf.
        column: (1,) int64, where the new token goes.
        probe: requires a gradient, so that there is a backward pass; None: there is none.
        found: the factors of the gradient, once the backward pass has been here.
    """

    def __init__(
        self,
        keys: torch.Tensor,
        values: torch.Tensor,
        bias: torch.Tensor,
        column: torch.Tensor,
        probe: torch.Tensor | None = None,
    ) -> None:
        self.keys, self.values, self.bias, self.column, self.probe = keys, values, bias, column, probe
        self.found: Factors | None = None


class _OneToken(torch.autograd.Function):
    """Attention of one token to the filled columns and to itself."""

    @staticmethod
    def forward(
        ctx: Any,
        probe: torch.Tensor | None,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        slots: Slots,
        scaling: float,
    ) -> torch.Tensor:
        """(N, g, D) of the same, and (N, 1, D) keys and values."""
        slots.keys.index_copy_(1, slots.column, key)
        slots.values.index_copy_(1, slots.column, value)
        scores = torch.baddbmm(slots.bias, query, slots.keys.transpose(1, 2), alpha=scaling)
        weights = scores.softmax(-1)
        ctx.slots, ctx.scaling, ctx.query, ctx.weights = slots, scaling, query, weights
        return torch.bmm(weights, slots.values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        """Gradients of query, key and value of the new token; those of the past are left in the slots as factors."""
        slots, query, weights, out = ctx.slots, ctx.query, ctx.weights, grads[0]
        scores = torch._softmax_backward_data(
            torch.bmm(out, slots.values.transpose(1, 2)), weights, -1, weights.dtype
        ).mul_(ctx.scaling)
        slots.found = (scores, query, weights, out)
        if not ctx.needs_input_grad[1]:
            return None, None, None, None, None, None
        own_scores, own_weights = scores.index_select(2, slots.column), weights.index_select(2, slots.column)
        key = torch.bmm(own_scores.transpose(1, 2), query)
        value = torch.bmm(own_weights.transpose(1, 2), out)
        return None, torch.bmm(scores, slots.keys), key, value, None, None


def one_token_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    slots: list[Slots],
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as the library calls it: query (B, H g, 1, D), key and value (B, H, 1, D) of the new token.

    Raises:
        NotImplementedError: the model wants more of its attention than this.
    """
    given = {"attention_mask": attention_mask, **kwargs}
    if wanted := [name for name, value in given.items() if value is not None and name not in HARMLESS]:
        raise NotImplementedError(f"attention of one token does not know {', '.join(wanted)}")
    rows, heads, _, width = key.shape
    own = slots[module.layer_idx]  # type: ignore[index]
    scaling = width**-0.5 if scaling is None else scaling
    flat = (rows * heads, -1, width)
    out = _OneToken.apply(own.probe, query.reshape(flat), key.reshape(flat), value.reshape(flat), own, scaling)
    return out.view(rows, 1, -1, width), None


AttentionInterface.register(NAME, one_token_attention)  # type: ignore[arg-type]


class _Passing(DynamicLayer):
    """Keeps nothing: the attention function does."""

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """What came in."""
        return key_states, value_states

    def get_seq_length(self) -> int:
        """Positions are given explicitly."""
        return 0


def read_one(
    base: PreTrainedModel, tokens: torch.Tensor, positions: torch.Tensor, slots: list[Slots]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Float32 logits (B, V) and final hidden states (B, d) of one more token a row, (B, 1), at ``positions`` (B, 1)."""
    decoder: Any = base.get_decoder()
    cache = Cache(layers=[_Passing() for _ in slots])
    with attending(base, NAME):
        states = decoder(
            input_ids=tokens, position_ids=positions, past_key_values=cache, use_cache=True, slots=slots
        ).last_hidden_state[:, -1]
    return output_logits(base, states).float(), states
