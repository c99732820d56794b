"""The past of texts in buffers of fixed size, moved by outer products; for models with plain attention.

Replaces `lit_narrative.steering.past.Past` where a self-check shows that it gives the same.

Notation: as in `lit_narrative.steering.pplm.one_token`; T columns in use.
"""

import torch
from torch.distributed.fsdp import FSDPModule
from torch.nn import functional
from transformers import DynamicCache, PreTrainedModel

from lit_narrative.lm.fast.kv_cache import plain_attention
from lit_narrative.lm.fast.self_check import PROMPTS, allclose, cached_check
from lit_narrative.lm.load import takes_attention_functions
from lit_narrative.steering.past import Loss, Move, Past, Positions, Reading
from lit_narrative.steering.pplm.flat import EagerPass, Inputs, Pass, make_pass

Layout = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
"""Positions, bias, column and reach of `lit_narrative.steering.pplm.flat.Inputs`."""
BLOCK = 64  # buffers have a multiple of this many columns, so that few shapes are traced


class LastLayout:
    """The layout of the token that was read last, and the ``positions`` and ``weights`` that it was computed from."""

    positions: Positions | None = None
    weights: torch.Tensor | None = None
    layout: Layout


class BufferedPast:
    """Keys and values of all blocks in one buffer; see `lit_narrative.steering.past.MovablePast`.

    Args:
        base: a transformers causal LM.
        pairs: (2, L, B, H, C, D) keys and values, T columns filled.
        mask: (B, T) bool, true where a row has a token.
        traceable: whether passes may be traced.
        last: layout of the token that was read last; copies share it, as they read the same tokens.
    """

    def __init__(
        self,
        base: PreTrainedModel,
        pairs: torch.Tensor,
        mask: torch.Tensor,
        traceable: bool,
        last: LastLayout | None = None,
    ) -> None:
        self.base, self.pairs, self.mask, self.traceable = base, pairs, mask, traceable
        self.last = last or LastLayout()

    @classmethod
    def of(cls, past: Past, mask: torch.Tensor, new_tokens: int) -> "BufferedPast":
        """The content of ``past`` in buffers with room for ``new_tokens`` more."""
        tensors = past.tensors
        rows, heads, length, width = tensors[0].shape
        # One column more than tokens: a token that is read for its loss is written before it belongs to the past.
        columns = -(-(length + new_tokens + 1) // BLOCK) * BLOCK
        # Zeros and not `empty`: a hidden column has weight 0, and 0 * NaN is NaN.
        pairs = tensors[0].new_zeros(2, len(tensors) // 2, rows, heads, columns, width)
        for index, tensor in enumerate(tensors):
            pairs[index % 2, index // 2, :, :, :length] = tensor
        return cls(past.base, pairs, mask, not hooked(past.base))

    def copy(self) -> "BufferedPast":
        """A past with the same content that shares nothing that changes."""
        return BufferedPast(self.base, self.pairs.clone(), self.mask, self.traceable, self.last)

    def fork(self) -> Past:
        """The same content in the cache of transformers, to read further tokens with a gradient."""
        cache = DynamicCache(config=self.base.config)
        for layer, (keys, values) in enumerate(zip(self.tensors[0::2], self.tensors[1::2], strict=True)):
            cache.update(keys, values, layer)
        return Past(self.base, cache)

    def keep(self, rows: torch.Tensor) -> None:
        """Keep only ``rows`` (indices; a row may be repeated)."""
        self.pairs, self.mask = self.pairs[:, :, rows], self.mask[rows]

    @property
    def tensors(self) -> list[torch.Tensor]:
        """Keys and values of the first block, of the second, …, (B, H, T, D) each."""
        length = self.mask.shape[1]
        return [side[:, :, :length] for layer in self.pairs.unbind(1) for side in layer]

    def read(self, tokens: torch.Tensor, positions: Positions) -> Reading:
        """Read one more token a row, (B, 1)."""
        inputs = self._inputs(tokens, positions, None)
        reading = Reading(*self._pass(inputs).forward(inputs, learns=False))
        self.mask = positions.mask
        return reading

    def gradient_step(
        self, tokens: torch.Tensor, positions: Positions, loss: Loss, move: Move, weights: torch.Tensor | None
    ) -> torch.Tensor:
        """Take one gradient step on the past; see `lit_narrative.steering.past.MovablePast.gradient_step`."""
        inputs = self._inputs(tokens, positions, weights)
        steps = self._pass(inputs)
        losses, grad = loss(Reading(*steps.forward(inputs, learns=True)))
        columns, widths, squares = steps.backward(grad)
        # One batched product, added in place: no gradient as large as the past is ever written.
        minus = widths * -move(squares).to(widths.dtype)[:, :, None, None, None]
        self.pairs.flatten(0, 3).baddbmm_(columns.flatten(0, 3).mT, minus.flatten(0, 3))
        return losses

    def _inputs(self, tokens: torch.Tensor, positions: Positions, weights: torch.Tensor | None) -> Inputs:
        last = self.last  # the layout is the same for all gradient steps at a token, and for both pasts
        if last.positions is not positions or (weights is not None and last.weights is not weights):
            last.positions, last.weights, last.layout = positions, weights, self._layout(positions, weights)
        return Inputs(tokens, *last.layout, self.pairs)

    def _layout(self, positions: Positions, weights: torch.Tensor | None) -> Layout:
        """Positions, bias of unseen columns, the column of the new token, and weights of the columns that may move."""
        rows, heads, columns = self.pairs.shape[2:5]
        free = columns - positions.mask.shape[1]
        seen, dtype = functional.pad(positions.mask, (0, free)), self.pairs.dtype
        bias = torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, -torch.inf)
        per_head = bias[:, None, None].expand(-1, heads, -1, -1).reshape(rows * heads, 1, columns)
        movable = positions.before.to(dtype) if weights is None else (weights * positions.before).to(dtype)
        # Neither the new token's own column nor a free one moves.
        reach = functional.pad(movable, (0, free + 1))[:, None, None]
        column = torch.tensor([positions.mask.shape[1] - 1], device=seen.device)
        return positions.lengths[:, None] - 1, per_head, column, reach

    def _pass(self, inputs: Inputs) -> Pass:
        if not self.traceable:
            return EagerPass(self.base)
        return make_pass(self.base, inputs, self.base.get_output_embeddings().weight.shape[0])


def hooked(base: PreTrainedModel) -> bool:
    """Whether hooks other than those of transformers are registered: they may do something else at each call."""
    hooks = [
        hook for part in base.modules() for hook in (*part._forward_hooks.values(), *part._forward_pre_hooks.values())
    ]
    return any(not getattr(hook, "__module__", "").startswith("transformers.") for hook in hooks)


def can_buffer(base: PreTrainedModel) -> bool:
    """Whether pasts of ``base`` may be kept in buffers."""
    if not takes_attention_functions(base) or not plain_attention(base) or isinstance(base, FSDPModule):
        return False
    return not torch.is_autocast_enabled(base.device.type) and supports_buffered_past(base)


def _first_token(reading: Reading) -> tuple[torch.Tensor, torch.Tensor]:
    """-log p of token 0, and its gradient."""
    logprobs = torch.log_softmax(reading.logits, -1)
    # The gradient of -log softmax at token 0: p less the one-hot vector.
    grad = logprobs.exp()
    grad[:, 0] -= 1
    return -logprobs[:, 0], grad


@cached_check
def supports_buffered_past(base: PreTrainedModel) -> bool:
    """Whether ``base`` reads and moves its past in buffers as it does in the cache of transformers."""
    width = max(map(len, PROMPTS))
    ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in PROMPTS], device=base.device)
    mask = torch.tensor([[False] * (width - len(prompt)) + [True] * len(prompt) for prompt in PROMPTS])
    mask = mask.to(base.device)
    past, _ = Past.of(base, ids[:, :-1], mask[:, :-1])
    logits = []
    for kind in (BufferedPast.of(past, mask[:, :-1], 1), past):
        positions = Positions(mask, True)
        # `rsqrt` of squared norms: each block of each row takes a step of length 1.
        kind.gradient_step(ids[:, -1:], positions, _first_token, torch.rsqrt, None)
        logits.append(kind.read(ids[:, -1:], positions).logits)
    return allclose(logits[0], logits[1], logits[1].std(), base.dtype)
