"""Reading one token after buffers of keys and values, with the gradient with regard to them as outer products.

The loss of one token depends on a key of the past through its product with one query: the gradient of all keys of a
head is ds q', an outer product of T and D numbers, and that of its values w do'. The backward pass therefore never
writes gradients as large as the past: their norms are computed from the factors, and a step is one product added in
place.

Notation: L blocks, B rows, H key heads, g query heads a key head, C columns of the buffers, D head width, N = B H.
"""

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, Cache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from lit_narrative.lm.fast.prefix_decoding import refuse_arguments
from lit_narrative.lm.load import attention_function
from lit_narrative.lm.logprobs import output_logits

NAME = "lit_narrative_one_token"
Factors = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
"""Of one block: ds (N, g, C), queries (N, g, D), attention weights (N, g, C), do (N, g, D)."""


class Slots:
    """The keys and values of one block, as its attention reads them.

    Attributes:
        keys: (N, C, D), with room for the new token.
        values: (N, C, D).
        bias: (N, 1, C), 0 where a column is seen, else -inf.
        column: (1,) int64, the column of the new token.
        probe: a scalar that requires a gradient, so that the backward pass reaches this block; None: no backward pass.
        factors: of the gradient, set by the backward pass.
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
        self.factors: Factors | None = None


def softmax_backward(grad: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
    """The gradient of softmax inputs over the last dimension, in one kernel instead of four."""
    return torch._softmax_backward_data(grad, probabilities, -1, probabilities.dtype)


class _OneTokenAttention(torch.autograd.Function):
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
        # Before the scores: the new token attends to itself. Each gradient step writes the same column again.
        slots.keys.index_copy_(1, slots.column, key)
        slots.values.index_copy_(1, slots.column, value)
        # (N, g, C). `alpha` scales the product alone, not the bias of 0 and -inf.
        scores = torch.baddbmm(slots.bias, query, slots.keys.transpose(1, 2), alpha=scaling)
        weights = scores.softmax(-1)
        ctx.slots, ctx.scaling, ctx.query, ctx.weights = slots, scaling, query, weights
        return torch.bmm(weights, slots.values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        """Gradients of query, key and value of the new token; those of the past are stored in the slots as factors."""
        slots, query, weights, out = ctx.slots, ctx.query, ctx.weights, grads[0]
        scores = softmax_backward(torch.bmm(out, slots.values.transpose(1, 2)), weights).mul_(ctx.scaling)
        slots.factors = (scores, query, weights, out)
        if not ctx.needs_input_grad[1]:  # the first block: nothing below it depends on the past
            return None, None, None, None, None, None
        # The token attends to itself too, through the column that was just written.
        new_scores, new_weights = scores.index_select(2, slots.column), weights.index_select(2, slots.column)
        key = torch.bmm(new_scores.transpose(1, 2), query)
        value = torch.bmm(new_weights.transpose(1, 2), out)
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
    """Attention with the signature of transformers: query (B, H g, 1, D), key and value (B, H, 1, D) of the new token.

    Raises:
        NotImplementedError: the model asks for an argument that this function does not implement.
    """
    refuse_arguments("attention of one token", attention_mask=attention_mask, **kwargs)
    rows, heads, _, width = key.shape
    slot = slots[module.layer_idx]  # type: ignore[index]
    scaling = width**-0.5 if scaling is None else scaling
    flat = (rows * heads, -1, width)
    out = _OneTokenAttention.apply(
        slot.probe, query.reshape(flat), key.reshape(flat), value.reshape(flat), slot, scaling
    )
    return out.view(rows, 1, -1, width), None


AttentionInterface.register(NAME, one_token_attention)  # type: ignore[arg-type]


class _NoCache(DynamicLayer):
    """Stores nothing: the attention function writes keys and values itself."""

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return the new keys and values alone."""
        return key_states, value_states

    def get_seq_length(self) -> int:
        """0: positions are passed explicitly."""
        return 0


def read_one(
    base: PreTrainedModel, tokens: torch.Tensor, positions: torch.Tensor, slots: list[Slots]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Float32 logits (B, V) and final hidden states (B, d) of one more token a row, (B, 1), at ``positions`` (B, 1)."""
    decoder: Any = base.get_decoder()
    cache = Cache(layers=[_NoCache() for _ in slots])
    with attention_function(base, NAME):
        states = decoder(
            input_ids=tokens, position_ids=positions, past_key_values=cache, use_cache=True, slots=slots
        ).last_hidden_state[:, -1]
    return output_logits(base, states).float(), states
