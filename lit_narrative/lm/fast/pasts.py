"""Prompts that were read, and the keys and values of the completions behind them: copied, shared, or in one place.

Notation: U prompts, R rows, P longest prompt, T longest completion, V vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn
from transformers import Cache, PreTrainedModel, StaticCache
from transformers.cache_utils import StaticLayer

from lit_narrative.errors import UserError
from lit_narrative.lm.fast.kv_cache import BufferedLayer, plain_attention, select_rows
from lit_narrative.lm.fast.llama_decoding import FusedLlama
from lit_narrative.lm.fast.prefix_decoding import Groups
from lit_narrative.lm.load import attention_name, base_lm
from lit_narrative.lm.tokenizer import pad_left
from lit_narrative.lm.vectors.inject import injecting, stack_injections

STATIC_ROUND = 128
"""Positions of a static cache are a multiple of this: prompts of other lengths then seldom ask for another graph."""


class Past(Protocol):
    """What has been read so far, of each row."""

    def select(self, rows: torch.Tensor) -> None:
        """Keep only ``rows`` (indices)."""

    def read(self, tokens: torch.Tensor, step: int) -> torch.Tensor:
        """Logits (R, V) behind the tokens of ``step``, (R,)."""


class Prefix:
    """The prompts of a batch: read once each, then shared by their completions.

    Prompts of one length need no mask. Others are padded on the left, and the mask for all steps is made ahead.

    Args:
        ids: of each prompt.
        counts: completions of each prompt.
        injections: vectors of each prompt, or None.
        new_tokens: T.
        device: of the model.
    """

    def __init__(
        self,
        ids: Sequence[Sequence[int]],
        counts: Sequence[int],
        injections: Sequence["np.ndarray | torch.Tensor | None"],
        new_tokens: int,
        device: torch.device,
    ) -> None:
        lengths = torch.tensor([len(row) for row in ids], device=device)
        self.width, self.new_tokens = int(lengths.max()), new_tokens
        repeats = torch.tensor(counts, device=device)
        self.owner = torch.repeat_interleave(torch.arange(len(ids), device=device), repeats)
        self.ids = pad_left(ids).to(device)
        stacked = stack_injections(injections)
        self.injections = None if stacked is None else stacked.to(device)
        self.padded = bool((lengths != self.width).any())
        self.lengths = lengths[self.owner]
        columns = torch.arange(self.width + new_tokens, device=device)
        self.mask = columns >= (self.width - lengths)[:, None]  # (U, P + T)

    def read(self, lm: nn.Module, cache: Cache) -> torch.Tensor:
        """Fill the cache with the prompts and their vectors; logits (U, V) of the first new token."""
        inputs: dict[str, Any] = {}
        if self.padded:
            mask = self.mask[:, : self.width].long()
            inputs = {"attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
        inputs |= {"past_key_values": cache, "use_cache": True, "logits_to_keep": 1}
        with injecting(lm, self.ids, self.injections, self.mask[:, : self.width]):
            return lm(input_ids=self.ids, **inputs).logits[:, -1]


class CopiedPast:
    """Keys and values where every row has a copy of its prompt's in front."""

    def __init__(self, prefix: Prefix, cache: Cache, lm: nn.Module) -> None:
        select_rows(cache, prefix.owner)
        self.lm, self.cache, self.width, self.padded = lm, cache, prefix.width, prefix.padded
        self.mask, self.lengths = prefix.mask[prefix.owner], prefix.lengths

    def select(self, rows: torch.Tensor) -> None:
        """Keep only ``rows``."""
        select_rows(self.cache, rows)
        self.mask, self.lengths = self.mask[rows], self.lengths[rows]

    def read(self, tokens: torch.Tensor, step: int) -> torch.Tensor:
        """Logits (R, V) behind the tokens of ``step``, (R,)."""
        inputs: dict[str, torch.Tensor] = {}
        if self.padded:  # masks and positions only where prompts differ in length
            mask = self.mask[:, : self.width + step + 1].long()
            inputs = {"attention_mask": mask, "position_ids": (self.lengths + step)[:, None]}
        return self.lm(input_ids=tokens[:, None], past_key_values=self.cache, use_cache=True, **inputs).logits[:, -1]


class SharedPast:
    """Keys and values where the rows of a group share one copy of their prompt's."""

    def __init__(self, prefix: Prefix, cache: Cache, lm: nn.Module, fused: bool) -> None:
        self.groups = Groups(cache, prefix.mask[:, : prefix.width], prefix.owner, prefix.new_tokens)
        self.lm, self.lengths = lm, prefix.lengths
        self.step = FusedLlama(base_lm(lm), prefix.width + prefix.new_tokens) if fused else None

    def select(self, rows: torch.Tensor) -> None:
        """Keep only ``rows``."""
        self.groups.select(rows)
        if self.step is not None:
            self.step.select(rows)
        self.lengths = self.lengths[rows]

    def read(self, tokens: torch.Tensor, step: int) -> torch.Tensor:
        """Logits (R, V) behind the tokens of ``step``, (R,)."""
        positions = self.lengths + step
        if self.step is not None:
            return self.step(tokens, positions, self.groups)
        # Positions always: the cache that the model sees holds completions only, and would count from 0.
        past = {"past_key_values": self.groups.cache, "groups": self.groups, "position_ids": positions[:, None]}
        return self.lm(input_ids=tokens[:, None], use_cache=True, **past).logits[:, -1]


class StaticPast:
    """Keys and values in one place from the first token to the last, read by a compiled step.

    Shapes and addresses stay: on CUDA the step is one graph that is replayed. Rows that have ended stay in the batch.
    What was compiled, and the memory of keys and values, is kept with the model for the next batch of these sizes.

    Raises:
        UserError: the model keeps something else than keys and values, or attends otherwise than by ``sdpa``.
    """

    def __init__(self, prefix: Prefix, cache: Cache, lm: nn.Module) -> None:
        base, rows = base_lm(lm), len(prefix.owner)
        positions = -(-(prefix.width + prefix.new_tokens) // STATIC_ROUND) * STATIC_ROUND
        self.lm, self.width, self.lengths = lm, prefix.width, prefix.lengths
        self.step = _static_step(lm, base, rows, positions)
        self.step.fill(cache, prefix)

    def select(self, rows: torch.Tensor) -> None:
        """Never called: no row leaves.

        Raises:
            NotImplementedError: it was.
        """
        raise NotImplementedError("rows do not leave a static cache")

    def read(self, tokens: torch.Tensor, step: int) -> torch.Tensor:
        """Logits (R, V) behind the tokens of ``step``, (R,)."""
        return self.step(self.lm, tokens, self.lengths + step, self.width + step)


class _StaticStep:
    """A compiled step of one number of rows and positions, with the memory that it works in."""

    def __init__(self, lm: nn.Module, base: PreTrainedModel, rows: int, positions: int) -> None:
        self.shape = rows, positions
        self.cache = StaticCache(base.config, max_cache_len=positions)
        self.mask = torch.zeros(rows, 1, 1, positions, dtype=torch.bool, device=base.device)
        # On CUDA "reduce-overhead" records the step as one graph.
        mode = "reduce-overhead" if base.device.type == "cuda" else None
        self.compiled: Callable[..., torch.Tensor] = torch.compile(_logits, mode=mode, dynamic=False)

    def fill(self, cache: Cache, prefix: Prefix) -> None:
        """Begin with the prompts that ``cache`` has read."""
        for static, read in zip(self.cache.layers, cache.layers, strict=True):
            assert isinstance(read, BufferedLayer) and read.keys is not None and read.values is not None
            assert isinstance(static, StaticLayer)
            keys, values = (part[:, :, : prefix.width][prefix.owner] for part in (read.keys, read.values))
            if not static.is_initialized:
                static.lazy_initialization(keys, values)
            static.keys[:, :, : prefix.width], static.values[:, :, : prefix.width] = keys, values  # type: ignore[index]
            static.cumulative_length.fill_(prefix.width)
        self.mask.zero_()[:, 0, 0, : prefix.width] = prefix.mask[prefix.owner, : prefix.width]

    def __call__(self, lm: nn.Module, tokens: torch.Tensor, positions: torch.Tensor, column: int) -> torch.Tensor:
        self.mask[..., column] = True
        torch.compiler.cudagraph_mark_step_begin()  # the logits of the step before are no longer needed
        return self.compiled(lm, tokens[:, None], positions[:, None], self.mask, self.cache)


def _logits(
    lm: nn.Module, tokens: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor, cache: Cache
) -> torch.Tensor:
    inputs: dict[str, Any] = {"attention_mask": mask, "position_ids": positions, "past_key_values": cache}
    logits: torch.Tensor = lm(input_ids=tokens, use_cache=True, **inputs).logits[:, -1]
    return logits


_STEPS: WeakKeyDictionary[nn.Module, _StaticStep] = WeakKeyDictionary()
"""The last step of each model: one alone, since each holds the keys and values of a whole batch."""


def _static_step(lm: nn.Module, base: PreTrainedModel, rows: int, positions: int) -> _StaticStep:
    if not plain_attention(base) or attention_name(base) != "sdpa":
        raise UserError(
            f"model.sampling.compile is for models that attend to all positions, by model.attention=sdpa; this one is "
            f"'{base.config.model_type}' with {attention_name(base)}: leave it out"
        )
    step = _STEPS.get(lm)
    if step is None or step.shape != (rows, positions):
        step = _STEPS[lm] = _StaticStep(lm, base, rows, positions)
    return step
