"""A key/value cache for decoding that writes in place.

The dynamic cache of transformers concatenates on every step, which copies all that it holds; this one allocates a
buffer for the whole length and returns the filled part. It can also drop finished rows and repeat a prompt for its
group.
"""

from typing import Any

import torch
from torch import nn
from transformers import Cache, DynamicCache, PretrainedConfig
from transformers.cache_utils import DynamicLayer

# Buffers grow by so many positions, and from 64 on by a quarter. One of the whole length would spread its beginning
# over more memory than a processor's cache holds: products with that took three times as long (AMD EPYC, 128 rows).
GROWTH = 16
# Positions of a piece; of 32 to 128 the fastest by a little.
CHUNK = 64


class BufferedLayer(DynamicLayer):
    """Keys and values (rows, heads, positions, head width) of one block, filled up to ``length``.

    Args:
        capacity: positions at most.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self.length = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Take type and device of the first update."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append the new positions and return everything so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        start, end = self.length, self.length + key_states.shape[-2]
        if end > self.keys.shape[2]:
            self.keys, self.values = self._grown(self.keys, end), self._grown(self.values, end)
        self.length = end
        self.keys[:, :, start:end] = key_states
        self.values[:, :, start:end] = value_states
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_seq_length(self) -> int:
        """Positions filled so far."""
        return self.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length of keys that a query of ``query_length`` will see, and their offset."""
        return self.length + query_length, 0

    def select(self, rows: torch.Tensor) -> None:
        """Keep only ``rows`` (indices; a row may be repeated)."""
        if self.keys is None or self.values is None:
            return  # nothing has been read yet
        self.keys = self._take(self.keys, rows)
        self.values = self._take(self.values, rows)

    def _take(self, buffer: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        selected = self._room(buffer, len(rows), self.length)
        selected[:, :, : self.length] = buffer[:, :, : self.length].index_select(0, rows)
        return selected

    def _grown(self, buffer: torch.Tensor, least: int) -> torch.Tensor:
        grown = self._room(buffer, len(buffer), least)
        grown[:, :, : self.length] = buffer[:, :, : self.length]
        return grown

    def _room(self, buffer: torch.Tensor, rows: int, least: int) -> torch.Tensor:
        positions = max(min(least + max(GROWTH, least // 4), self.capacity), least)
        return buffer.new_empty(rows, buffer.shape[1], positions, buffer.shape[3])


class ChunkedLayer:
    """Keys and values of the completions of one block, in pieces of ``CHUNK`` positions.

    A full piece is never moved, and products with it read memory without gaps: with 240 positions of 128 rows attention
    took 0.6 of the time of one buffer that grows (AMD EPYC).
    """

    def __init__(self) -> None:
        self.full: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.last: BufferedLayer = BufferedLayer(CHUNK)

    def append(self, key: torch.Tensor, value: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Add one position, (rows, heads, head width) each; keys and values of all, (rows, heads, positions, width)."""
        if self.last.length == CHUNK:
            assert self.last.keys is not None and self.last.values is not None
            self.full.append((self.last.keys, self.last.values))
            self.last = BufferedLayer(CHUNK)
        return [*self.full, self.last.update(key[:, :, None], value[:, :, None])]

    def select(self, rows: torch.Tensor) -> None:
        """Keep only ``rows`` (indices)."""
        self.full = [(keys.index_select(0, rows), values.index_select(0, rows)) for keys, values in self.full]
        self.last.select(rows)


def is_stateful(base: nn.Module) -> bool:
    """Whether a transformers model keeps recurrent state beside keys and values."""
    return bool(base._is_stateful)


def plain_attention(base: nn.Module) -> bool:
    """Whether every block of a transformers model keeps the keys and values of all positions and nothing else.

    Sliding-window, linear-attention and recurrent models keep state of another shape.
    """
    text = base.config.get_text_config()  # type: ignore[operator,union-attr]
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    return kinds == {"full_attention"} and not getattr(text, "sliding_window", None) and not is_stateful(base)


def decoding_cache(base: nn.Module, capacity: int) -> Cache:
    """A cache of ``capacity`` positions for every block of a plain-attention model; for others that of transformers."""
    config: PretrainedConfig = base.config  # type: ignore[assignment]
    if not plain_attention(base):
        return DynamicCache(config=config)
    return Cache(layers=[BufferedLayer(capacity) for _ in range(config.get_text_config().num_hidden_layers)])


def select_rows(cache: Cache, rows: torch.Tensor) -> None:
    """Keep ``rows`` of every block of ``cache``."""
    for layer in cache.layers:
        if isinstance(layer, BufferedLayer):
            layer.select(rows)
        else:
            layer.reorder_cache(rows)  # type: ignore[arg-type]
