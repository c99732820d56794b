"""The keys and values of the text so far, as tensors that a gradient can move.

Works with every cache of transformers whose blocks hold keys and values: full and sliding windows, shared key heads. A
cache is never built from pairs of keys and values, which is wrong for sliding windows: the object of each block is
copied with its state, and gets other keys and values.

Notation: B rows, H key heads, T positions that a block holds (fewer than the text's in a sliding window), D width.
"""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from lit_narrative.errors import UserError
from lit_narrative.lm.fast.kv_cache import is_stateful, select_rows
from lit_narrative.lm.logprobs import output_logits


class Reading(NamedTuple):
    """Outputs of the model at the last token of each row: float32 logits (B, V), final hidden states (B, d)."""

    logits: torch.Tensor
    hidden: torch.Tensor


class Positions(NamedTuple):
    """Positions of the tokens that are read next.

    Attributes:
        mask: (B, T + 1) bool, true where a row has a token, the one that is read next included.
        padded: whether the mask is false anywhere; kept, as asking a GPU tensor waits for the GPU.
    """

    mask: torch.Tensor
    padded: bool

    @property
    def before(self) -> torch.Tensor:
        """(B, T) the mask of the past."""
        return self.mask[:, :-1]

    @property
    def lengths(self) -> torch.Tensor:
        """(B,) tokens of each row, the last included."""
        return self.mask.sum(1)

    def next(self) -> "Positions":
        """The positions one token further."""
        return Positions(torch.nn.functional.pad(self.mask, (0, 1), value=True), self.padded)

    def rows(self, rows: torch.Tensor) -> "Positions":
        """Those of some rows."""
        return Positions(self.mask[rows], self.padded)

    def inputs(self) -> dict[str, torch.Tensor]:
        """Inputs of the model to read one more token; none where all rows have one length."""
        if not self.padded:
            return {}
        return {"attention_mask": self.mask.long(), "position_ids": self.lengths[:, None] - 1}


Move = Callable[[torch.Tensor], torch.Tensor]
"""From squared gradient norms (L, B) to factors (L, B) of the gradients."""
Loss = Callable[[Reading], tuple[torch.Tensor, torch.Tensor]]
"""From a reading to the loss of each row, (B,), and the gradient of their sum with regard to the logits, (B, V)."""


class MovablePast(Protocol):
    """Keys and values of what a model has read, which gradient steps can move."""

    @property
    def tensors(self) -> list[torch.Tensor]:
        """Keys and values of the first block, of the second, …, (B, H, T, D) each; none before the first read."""

    def copy(self) -> "MovablePast":
        """A past with the same content that shares nothing that changes."""

    def fork(self) -> "Past":
        """A copy in the cache of transformers, to read further tokens with a gradient."""

    def keep(self, rows: torch.Tensor) -> None:
        """Keep only ``rows`` (indices; a row may be repeated)."""

    def read(self, tokens: torch.Tensor, positions: Positions) -> Reading:
        """Read one more token a row, (B, 1)."""

    def gradient_step(
        self, tokens: torch.Tensor, positions: Positions, loss: Loss, move: Move, weights: torch.Tensor | None
    ) -> torch.Tensor:
        """Take one gradient step on the past; the token is read for its loss only, and not added.

        Args:
            tokens: (B, 1) the token that is read after the past.
            positions: of the token.
            loss: to minimise.
            move: gives the step size.
            weights: (B, T) factor of each position's gradient; None: 1 everywhere.

        Returns:
            (B,) the losses before the step.
        """


class Past:
    """A cache of one model, whose keys and values can be moved.

    Args:
        base: a transformers causal LM.
        cache: what it has read.
    """

    def __init__(self, base: PreTrainedModel, cache: Cache) -> None:
        self.base, self.cache = base, cache

    @classmethod
    def of(cls, base: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor) -> tuple["Past", torch.Tensor]:
        """Read left-padded prompts (B, T) with their mask; the past, and all final hidden states (B, T, d)."""
        cache = DynamicCache(config=base.config)
        if ids.shape[1] == 0:
            # (B, 0, 1): its sum is 0, and broadcasts to the width of the states that are added later.
            return cls(base, cache), ids.new_zeros(*ids.shape, 1, dtype=base.dtype)
        inputs: dict[str, torch.Tensor] = {}
        if not mask.all():
            # Positions count a row's own tokens; those of the padding would be -1.
            inputs = {"attention_mask": mask.long(), "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
        hidden = base.get_decoder()(input_ids=ids, past_key_values=cache, use_cache=True, **inputs).last_hidden_state
        return cls(base, cache), hidden

    def copy(self) -> "Past":
        """A past with the same content that shares nothing that changes."""
        return Past(self.base, copy_cache(self.cache))

    def fork(self) -> "Past":
        """A copy in the cache of transformers, to read further tokens with a gradient."""
        return self.copy()

    def keep(self, rows: torch.Tensor) -> None:
        """Keep only ``rows`` (indices; a row may be repeated)."""
        select_rows(self.cache, rows)

    @property
    def tensors(self) -> list[torch.Tensor]:
        """Keys and values of the first block, of the second, …, (B, H, T, D) each; none before the first read."""
        layers: list[Any] = [layer for layer in self.cache.layers if layer.get_seq_length() > 0]  # type: ignore[union-attr]
        return [tensor for layer in layers for tensor in (layer.keys, layer.values)]

    def read(self, tokens: torch.Tensor, positions: Positions) -> Reading:
        """Read one more token a row, (B, 1)."""
        hidden = self.read_states(positions, input_ids=tokens)
        return Reading(output_logits(self.base, hidden).float(), hidden)

    def read_states(self, positions: Positions, **tokens: torch.Tensor) -> torch.Tensor:
        """Final hidden states (B, d) of one more token a row: ``input_ids`` (B, 1) or ``inputs_embeds`` (B, 1, d)."""
        decoder: Any = self.base.get_decoder()
        output = decoder(past_key_values=self.cache, use_cache=True, **tokens, **positions.inputs())
        hidden: torch.Tensor = output.last_hidden_state[:, -1]
        return hidden

    def gradient_step(
        self, tokens: torch.Tensor, positions: Positions, loss: Loss, move: Move, weights: torch.Tensor | None
    ) -> torch.Tensor:
        """Take one gradient step on the past; see `MovablePast.gradient_step`."""
        # The gradient stops at the keys and values of the past; the token itself is read again in every step.
        leaves = [tensor.detach().requires_grad_() for tensor in self.tensors]
        with torch.enable_grad():
            # Read behind a copy, whose cache grows by the token; this one stays.
            logits, hidden = self._with(leaves).read(tokens, positions)
        losses, grad = loss(Reading(logits.detach(), hidden.detach()))
        grads = torch.autograd.grad(logits, leaves, grad)
        if weights is not None:
            # From the right: a sliding window holds the last positions only.
            grads = tuple(grad * weights[:, None, -grad.shape[2] :, None].to(grad.dtype) for grad in grads)
        # In float32: squares of half-precision gradients underflow.
        sums = torch.stack([grad.float().square().sum((1, 2, 3)) for grad in grads])
        # Keys and values alternate; a block has one norm for both, as in the published code.
        factors = move(sums[0::2] + sums[1::2]).repeat_interleave(2, 0)
        moved = [
            leaf.detach() - factor.to(leaf.dtype)[:, None, None, None] * grad
            for leaf, factor, grad in zip(leaves, factors, grads, strict=True)
        ]
        self.cache = self._with(moved).cache
        return losses

    def _with(self, tensors: list[torch.Tensor]) -> "Past":
        """The same past with these keys and values in place of its own."""
        cache = copy_cache(self.cache)
        for layer, keys, values in zip(cache.layers, tensors[0::2], tensors[1::2], strict=True):
            layer.keys, layer.values = keys, values  # type: ignore[union-attr]
        return Past(self.base, cache)


class Reader:
    """A model that reads texts token by token.

    Args:
        lm: a transformers causal LM.
        ids: (U, n) int64, left-padded prompts; all but their last tokens are read at once.
        mask: (U, n) bool, true where a prompt has a token.
        owner: (B,) the prompt of each text.

    Attributes:
        past: of all tokens before those that are read next.
        tokens: (B, 1) the tokens that are read next.
        positions: of these tokens.
        sums: (B, d) sums of the final hidden states of the past.
    """

    def __init__(self, lm: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, owner: torch.Tensor) -> None:
        before = mask[:, :-1]
        self.past: MovablePast
        self.past, hidden = Past.of(lm, ids[:, :-1], before)
        self.past.keep(owner)
        # The padding has states too, which no text is made of.
        self.sums = (hidden * before[..., None]).sum(1)[owner]
        self.tokens, self.positions = ids[owner, -1:], Positions(mask[owner], not bool(mask.all()))

    def advance(self, tokens: torch.Tensor | None) -> None:
        """Set the sampled tokens, (B,), to be read next; None: the prompts' last tokens."""
        if tokens is not None:
            self.tokens, self.positions = tokens[:, None], self.positions.next()

    def read(self) -> Reading:
        """Read the next token of every text."""
        reading = self.past.read(self.tokens, self.positions)
        self.sums = self.sums + reading.hidden
        return reading

    def keep(self, rows: torch.Tensor) -> None:
        """Keep only ``rows``."""
        self.past.keep(rows)
        self.sums, self.tokens, self.positions = self.sums[rows], self.tokens[rows], self.positions.rows(rows)


def copy_cache(cache: Cache) -> Cache:
    """A cache whose blocks can be extended or replaced without a change to the original."""
    # Tensors may be shared: a block's `update` concatenates into a new one.
    other = copy.copy(cache)
    other.layers = [copy.copy(layer) for layer in cache.layers]
    return other


def check_cache(base: PreTrainedModel) -> None:
    """Refuse a model that keeps more of its past than keys and values.

    Raises:
        UserError: naming the block's state.
    """
    plain = (DynamicLayer, DynamicSlidingWindowLayer)  # exact types: layers with further state are subclasses of them
    layers = DynamicCache(config=base.config).layers
    other = {type(layer).__name__ for layer in layers if type(layer) not in plain}
    if other or is_stateful(base):
        raise UserError(
            f"PPLM moves keys and values, and models of type '{base.config.model_type}' keep other state "
            f"({', '.join(sorted(other)) or 'recurrent'}); choose a model with attention in every block"
        )
