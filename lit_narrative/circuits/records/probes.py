"""Scores of probes beside those of their controls."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from lit_narrative.circuits.tables import read_arrays, read_rows, write_arrays, write_rows
from lit_narrative.files import read_json, write_json

HELD_OUT = "_heldout"
"""What the name of the fitted split's held-out rows ends in."""


@dataclass(frozen=True)
class ProbeRow:
    """A probe on a split.

    Attributes:
        target: what is read.
        kind: ``number`` (ridge regression) or ``class`` (logistic regression).
        site: short name of the activation.
        layer: of the block.
        place: name of the position.
        split: the rows; those of the fitted split are held out.
        n: number of rows.
        score: accuracy of a class, R² clipped to 0..1 of a number.
        accuracy: share of right classes.
        balanced_accuracy: mean over the classes of this split.
        majority: share of the commonest class of this split.
        r2: 1 − squared error / variance, as it is: far below 0 where a probe does not transfer.
        mae: mean absolute error.
        pearson: correlation of predictions and targets; None if one is constant.
        control: score of the same probe fitted to shuffled targets.
        selectivity: score less control.
    """

    target: str
    kind: str
    site: str
    layer: int
    place: str
    split: str
    n: int
    score: float
    accuracy: float | None
    balanced_accuracy: float | None
    majority: float | None
    r2: float | None
    mae: float | None
    pearson: float | None
    control: float | None
    selectivity: float | None


@dataclass(frozen=True, eq=False)
class Probes:
    """All probes.

    Attributes:
        rows: one for each probe and split.
        weights: float32 arrays ``<target>.<site>.<layer>.<place>.<mean|scale|coef|intercept>``; the probe reads
            ``((x − mean) / scale) @ coefᵀ + intercept``.
        skipped: probes not fitted, since the targets were all equal or too few.
    """

    rows: tuple[ProbeRow, ...]
    weights: dict[str, np.ndarray]
    skipped: tuple[str, ...] = ()

    def of(self, target: str, split: str) -> list[ProbeRow]:
        """The rows of a target on a split, the best first."""
        rows = [row for row in self.rows if (row.target, row.split) == (target, split)]
        return sorted(rows, key=lambda row: -row.score)

    def of_splits(self, splits: set[str]) -> Self:
        """The same on some splits only, with the held-out rows of the one that was fitted on."""
        return replace(self, rows=tuple(row for row in self.rows if row.split.removesuffix(HELD_OUT) in splits))

    def save(self, folder: str | Path) -> Path:
        """Write probes.csv, probes.safetensors and probes.json (how many, and which were skipped)."""
        folder = Path(folder)
        write_rows(folder / "probes.csv", ProbeRow, self.rows)
        write_arrays(folder / "probes.safetensors", self.weights)
        write_json(folder / "probes.json", {"rows": len(self.rows), "skipped": self.skipped})
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` wrote."""
        skipped = tuple(read_json(Path(folder, "probes.json"))["skipped"])
        weights = read_arrays(Path(folder, "probes.safetensors"))
        return cls(read_rows(Path(folder, "probes.csv"), ProbeRow), weights, skipped)
