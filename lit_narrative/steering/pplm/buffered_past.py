"""The past of texts in buffers of fixed size, moved by outer products; for models of plain attention.

Takes the place of :class:`lit_narrative.steering.past.Past` where a trial finds that it gives the same.

Notation: as in :mod:`lit_narrative.steering.pplm.one_token`; T columns in use.
"""

import torch
from torch.distributed.fsdp import FSDPModule
from torch.nn import functional
from transformers import DynamicCache, PreTrainedModel

from lit_narrative.lm.kv_cache import plain_attention
from lit_narrative.lm.self_check import PROMPTS, alike, once
from lit_narrative.steering.past import Loss, Move, Past, Places, Reading
from lit_narrative.steering.pplm.flat import EagerPass, Inputs, Pass, make_pass

Where = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
"""Positions, bias, column and reach of :class:`lit_narrative.steering.pplm.flat.Inputs`."""
BLOCK = 64  # buffers have a multiple of so many columns, so that few shapes come up


class At:
    """Where the last token was read; ``where`` belongs to ``places`` and ``weights``."""

    places: Places | None = None
    weights: torch.Tensor | None = None
    where: Where


class BufferedPast:
    """Keys and values of all blocks in one buffer; see :class:`lit_narrative.steering.past.MovablePast`.

    Args:
        base: a transformers causal LM.
        pairs: (2, L, B, H, C, D) keys and values, T columns filled.
        mask: (B, T) bool, true where a row has a token.
        traceable: whether passes may be traced.
        at: where the last token was read, shared by copies, which read the same tokens.
    """

    def __init__(
        self, base: PreTrainedModel, pairs: torch.Tensor, mask: torch.Tensor, traceable: bool, at: "At | None" = None
    ) -> None:
        self.base, self.pairs, self.mask, self.traceable = base, pairs, mask, traceable
        self.at = at or At()

    @classmethod
    def of(cls, past: Past, mask: torch.Tensor, new_tokens: int) -> "BufferedPast":
        """Take over what was read, with room for more tokens."""
        tensors = past.tensors
        rows, heads, length, width = tensors[0].shape
        columns = -(-(length + new_tokens + 1) // BLOCK) * BLOCK
        pairs = tensors[0].new_zeros(2, len(tensors) // 2, rows, heads, columns, width)
        for place, tensor in enumerate(tensors):
            pairs[place % 2, place // 2, :, :, :length] = tensor
        return cls(past.base, pairs, mask, not hooked(past.base))

    def copy(self) -> "BufferedPast":
        """Another past with the same content."""
        return BufferedPast(self.base, self.pairs.clone(), self.mask, self.traceable, self.at)

    def fork(self) -> Past:
        """The same content in the library's cache, to read on with a gradient."""
        cache = DynamicCache(config=self.base.config)
        for layer, (keys, values) in enumerate(zip(self.tensors[0::2], self.tensors[1::2], strict=True)):
            cache.update(keys, values, layer)
        return Past(self.base, cache)

    def keep(self, rows: torch.Tensor) -> None:
        """Keep only ``rows`` (indices; a row may come several times)."""
        self.pairs, self.mask = self.pairs[:, :, rows], self.mask[rows]

    @property
    def tensors(self) -> list[torch.Tensor]:
        """Keys and values of the first block, of the second, …, (B, H, T, D) each."""
        length = self.mask.shape[1]
        return [side[:, :, :length] for layer in self.pairs.unbind(1) for side in layer]

    def read(self, tokens: torch.Tensor, places: Places) -> Reading:
        """Read one more token a row, (B, 1)."""
        inputs = self._inputs(tokens, places, None)
        reading = Reading(*self._pass(inputs).forward(inputs, learns=False))
        self.mask = places.mask
        return reading

    def nudge(
        self, tokens: torch.Tensor, places: Places, loss: Loss, move: Move, weights: torch.Tensor | None
    ) -> torch.Tensor:
        """One gradient step on the past; see :meth:`lit_narrative.steering.past.MovablePast.nudge`."""
        inputs = self._inputs(tokens, places, weights)
        steps = self._pass(inputs)
        losses, grad = loss(Reading(*steps.forward(inputs, learns=True)))
        columns, widths, squares = steps.backward(grad)
        minus = widths * -move(squares).to(widths.dtype)[:, :, None, None, None]
        self.pairs.flatten(0, 3).baddbmm_(columns.flatten(0, 3).mT, minus.flatten(0, 3))
        return losses

    def _inputs(self, tokens: torch.Tensor, places: Places, weights: torch.Tensor | None) -> Inputs:
        at = self.at  # the same for all steps at a token
        if at.places is not places or (weights is not None and at.weights is not weights):
            at.places, at.weights, at.where = places, weights, self._where(places, weights)
        return Inputs(tokens, *at.where, self.pairs)

    def _where(self, places: Places, weights: torch.Tensor | None) -> Where:
        """Positions, what is seen, the column of the new token, and what may move."""
        rows, heads, columns = self.pairs.shape[2:5]
        free = columns - places.mask.shape[1]
        seen, dtype = functional.pad(places.mask, (0, free)), self.pairs.dtype
        bias = torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, -torch.inf)
        every = bias[:, None, None].expand(-1, heads, -1, -1).reshape(rows * heads, 1, columns)
        movable = places.before.to(dtype) if weights is None else (weights * places.before).to(dtype)
        reach = functional.pad(movable, (0, free + 1))[:, None, None]
        column = torch.tensor([places.mask.shape[1] - 1], device=seen.device)
        return places.lengths[:, None] - 1, every, column, reach

    def _pass(self, inputs: Inputs) -> Pass:
        if not self.traceable:
            return EagerPass(self.base)
        return make_pass(self.base, inputs, self.base.get_output_embeddings().weight.shape[0])


def hooked(base: PreTrainedModel) -> bool:
    """Whether a stranger's function is hooked into the model, which may do another thing at each call."""
    hooks = [
        hook for part in base.modules() for hook in (*part._forward_hooks.values(), *part._forward_pre_hooks.values())
    ]
    return any(not getattr(hook, "__module__", "").startswith("transformers.") for hook in hooks)


def can_buffer(base: PreTrainedModel) -> bool:
    """Whether the pasts of ``base`` may be kept this way."""
    if not base._supports_attention_backend or not plain_attention(base) or isinstance(base, FSDPModule):
        return False
    return not torch.is_autocast_enabled(base.device.type) and moves_rightly(base)


def _first_token(reading: Reading) -> tuple[torch.Tensor, torch.Tensor]:
    """-log p of token 0, and its gradient."""
    logprobs = torch.log_softmax(reading.logits, -1)
    grad = logprobs.exp()
    grad[:, 0] -= 1
    return -logprobs[:, 0], grad


@once
def moves_rightly(base: PreTrainedModel) -> bool:
    """Whether ``base`` reads and moves its past in buffers as it does in the library's cache, by trial."""
    width = max(map(len, PROMPTS))
    ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in PROMPTS], device=base.device)
    mask = torch.tensor([[False] * (width - len(prompt)) + [True] * len(prompt) for prompt in PROMPTS])
    mask = mask.to(base.device)
    past, _ = Past.of(base, ids[:, :-1], mask[:, :-1])
    found = []
    for kind in (BufferedPast.of(past, mask[:, :-1], 1), past):
        places = Places(mask, True)
        kind.nudge(ids[:, -1:], places, _first_token, torch.rsqrt, None)
        found.append(kind.read(ids[:, -1:], places).logits)
    return alike(found[0], found[1], found[1].std(), base.dtype)
