"""Where heads look: the mean attention of every head from one named place to another."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor

from lit_narrative.circuits.bridge import shape
from lit_narrative.circuits.hooks import Progress, capture
from lit_narrative.circuits.inputs import Places, Questions
from lit_narrative.circuits.tables import read_rows, write_rows
from lit_narrative.errors import UserError

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


HELD = 2**26
"""Attention weights held at once (256 MiB): of a large model or long rows, fewer rows are read together."""


@dataclass(frozen=True)
class Look:
    """A head's attention between two places.

    Attributes:
        layer: of the head.
        head: its number.
        query: the place that looks.
        key: the place that is looked at.
        n: rows that have both, the key not after the query.
        weight: mean attention over those rows, 0..1.
    """

    layer: int
    head: int
    query: str
    key: str
    n: int
    weight: float


@dataclass(frozen=True)
class Attention:
    """The looks of all heads."""

    rows: tuple[Look, ...]

    def grid(self, layer: int, head: int) -> tuple[np.ndarray, list[str]]:
        """Weights (queries, keys) of a head and the names of both; NaN where no row has the two."""
        names = list(dict.fromkeys(row.query for row in self.rows))
        values = np.full((len(names), len(names)), np.nan)
        for row in self.rows:
            if (row.layer, row.head) == (layer, head):
                values[names.index(row.query), names.index(row.key)] = row.weight
        return values, names

    def save(self, folder: str | Path) -> Path:
        """Write attention.csv."""
        write_rows(Path(folder, "attention.csv"), Look, self.rows)
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` wrote."""
        return cls(read_rows(Path(folder, "attention.csv"), Look))


def attend(
    bridge: "TransformerBridge", questions: Questions, batch_size: int = 64, progress: Progress | None = None
) -> Attention:
    """Mean attention between the named places of rows.

    Args:
        bridge: the model.
        questions: the rows; of places that are one everywhere only the first is kept.
        batch_size: rows of one forward pass at most.
        progress: called with (rows read, of how many).

    Raises:
        UserError: The rows have no named places.
    """
    if questions.places is None:
        raise UserError("the rows have no named places between which heads could look")
    sizes, places = shape(bridge), _distinct(questions.places)
    hooks = [f"blocks.{layer}.attn.hook_pattern" for layer in range(sizes.layers)]
    total = torch.zeros(sizes.layers, sizes.heads, len(places.names), len(places.names), dtype=torch.float64)
    count = torch.zeros(len(places.names), len(places.names), dtype=torch.long)
    batch_size = max(1, min(batch_size, HELD // (sizes.layers * sizes.heads * questions.tokens.shape[1] ** 2)))
    for start in range(0, len(questions), batch_size):
        rows = slice(start, start + batch_size)
        _, kept = capture(bridge, questions.rows(rows), hooks, batch_size)
        own = places.columns[rows]
        both = _looks(own)
        count += both.sum(0)
        for layer, hook in enumerate(hooks):
            total[layer] += (_between(kept[hook].cpu(), own) * both[:, None]).sum(0)
        if progress is not None:
            progress(min(start + batch_size, len(questions)), len(questions))
    return Attention(tuple(_rows(total, count, places.names)))


def _distinct(places: Places) -> Places:
    """The places without those that are where an earlier one is in every row."""
    first: dict[tuple[int, ...], str] = {}
    for name in places.names:
        first.setdefault(tuple(places.column(name).tolist()), name)
    return places.pick(list(first.values()))


def _looks(columns: Tensor) -> Tensor:
    """(n, P, P): whether a row has both places, the key not after the query."""
    query, key = columns[:, :, None], columns[:, None, :]
    return (key >= 0) & (query >= key)


def _between(pattern: Tensor, columns: Tensor) -> Tensor:
    """(n, heads, P, P) of a pattern (n, heads, T, T)."""
    rows = torch.arange(len(pattern))[:, None, None]
    return pattern[rows, :, columns[:, :, None], columns[:, None, :]].movedim(-1, 1).double()


def _rows(total: Tensor, count: Tensor, names: Sequence[str]) -> list[Look]:
    seen = [(q, k, int(count[q, k])) for q in range(len(names)) for k in range(len(names)) if count[q, k]]
    return [
        Look(layer, head, names[q], names[k], n, float(total[layer, head, q, k]) / n)
        for layer in range(len(total))
        for head in range(total.shape[1])
        for q, k, n in seen
    ]
