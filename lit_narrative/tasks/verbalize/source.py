"""Activations as a task reads them: a folder that ``lit-narrative extract`` wrote, or plain Parquet tables."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from lit_narrative.books.read import split_of
from lit_narrative.errors import UserError
from lit_narrative.tasks.verbalize.sidecar import FILE, SPLITS, Sidecar
from lit_narrative.tasks.verbalize.table import ActivationTable


@dataclass(frozen=True)
class Source:
    """Tables of activations.

    Attributes:
        tables: by split; of one file all the same.
        rows: numbers of the rows of each split.
        marker: text of the marker in their prompts.
        sidecar: of the folder, if it has one.
    """

    tables: Mapping[str, ActivationTable]
    rows: Mapping[str, np.ndarray]
    marker: str
    sidecar: Sidecar | None

    @classmethod
    def read(cls, name: str, marker: str) -> "Source":
        """Read a folder or a file, and compare it with its sidecar.

        Args:
            name: of it.
            marker: in the prompts, where no sidecar says so.

        Raises:
            UserError: there is none, or a row cannot be used.
        """
        path = Path(name)
        if path.is_file():
            table = ActivationTable(path)
            table.check_markers(marker)
            return cls(dict.fromkeys(SPLITS, table), _divided(table), marker, None)
        if not path.is_dir():
            raise UserError(
                f"data.activations: no folder or Parquet file {path} (looked in {path.resolve().parent}); write one by "
                "`lit-narrative extract`, or give another path"
            )
        sidecar = Sidecar.load(path) if (path / FILE).is_file() else None
        width = sidecar.width if sidecar else None
        tables = {split: ActivationTable(path / f"{split}.parquet", width) for split in SPLITS}
        for split, table in tables.items():
            table.check_markers(sidecar.marker if sidecar else marker)
            if sidecar:
                sidecar.check_documents(table.path, split, table.column("document"))
        rows = {split: np.arange(len(table)) for split, table in tables.items()}
        return cls(tables, rows, sidecar.marker if sidecar else marker, sidecar)

    @cached_property
    def mean(self) -> np.ndarray:
        """(a,) float32, mean vector of training."""
        vectors = self.tables["train"].vectors[self.rows["train"]]
        return vectors.mean(0, dtype=np.float64).astype(np.float32)

    @cached_property
    def mean_norm(self) -> float:
        """Mean norm of the vectors of training."""
        norms = np.linalg.norm(self.tables["train"].vectors[self.rows["train"]].astype(np.float64), axis=1)
        return float(norms.mean())


def _divided(table: ActivationTable) -> dict[str, np.ndarray]:
    """The rows of one file by the split that their document falls to; of a row without, what it says falls there.

    Raises:
        UserError: a split has no row.
    """
    keys = table.column("document") or [
        f"{prompt} {response}"
        for prompt, response in zip(table.column("prompt"), table.column("response"), strict=True)
    ]
    splits = np.array([split_of(str(key)) for key in keys])
    rows = {split: (splits == split).nonzero()[0] for split in SPLITS}
    if empty := [split for split, found in rows.items() if not len(found)]:
        raise UserError(
            f"data.activations: {table.path} is too small to split: none of its {len(table)} rows falls to "
            f"'{empty[0]}'; give more rows, or a folder with train.parquet, val.parquet and test.parquet"
        )
    return rows
