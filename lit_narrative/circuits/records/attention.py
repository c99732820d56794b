"""The attention between named positions, head by head."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from lit_narrative.circuits.tables import read_rows, write_rows


@dataclass(frozen=True)
class Look:
    """A head's attention between two positions.

    Attributes:
        layer: of the head.
        head: its number.
        query: the position that looks.
        key: the position that is looked at.
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
