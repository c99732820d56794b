"""How good a probe is: figures of one probe on one split, and the table of all of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from lit_narrative.circuits.tables import read_arrays, read_json, read_rows, write_arrays, write_rows
from lit_narrative.files import write_json


@dataclass(frozen=True)
class ProbeRow:
    """A probe on a split.

    Attributes:
        target: what is read.
        kind: ``number`` (ridge regression) or ``class`` (logistic regression).
        site: where in the block.
        layer: of the block.
        place: name of the column.
        split: the rows; those of the fitted split are held out.
        n: number of rows.
        score: accuracy of a class, R² clipped to 0..1 of a number.
        accuracy: share of right classes.
        balanced_accuracy: mean over the classes of this split.
        majority: share of the commonest class of this split.
        r2: 1 − squared error / variance, as it is: far below 0 where a probe does not transfer.
        mae: mean absolute error.
        pearson: correlation of said and right; None if one is constant.
        control: score of the same probe fitted to shuffled answers.
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
        skipped: probes not fitted, since the answers to fit were all alike or there were too few.
    """

    rows: tuple[ProbeRow, ...]
    weights: dict[str, np.ndarray]
    skipped: tuple[str, ...] = ()

    def of(self, target: str, split: str) -> list[ProbeRow]:
        """The rows of a target on a split, the best first."""
        own = [row for row in self.rows if (row.target, row.split) == (target, split)]
        return sorted(own, key=lambda row: -row.score)

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


def class_scores(right: np.ndarray, said: np.ndarray) -> dict[str, Any]:
    """Figures of a classifier; a class that it never saw counts as wrong.

    Args:
        right: (n,) classes.
        said: (n,) classes.
    """
    hits = right == said
    classes, counts = np.unique(right, return_counts=True)
    recalls = [hits[right == label].mean() for label in classes]
    accuracy = float(hits.mean())
    return {
        "score": accuracy,
        "accuracy": accuracy,
        "balanced_accuracy": float(np.mean(recalls)),
        "majority": float(counts.max() / len(right)),
        "r2": None,
        "mae": None,
        "pearson": None,
    }


def number_scores(right: np.ndarray, said: np.ndarray) -> dict[str, Any]:
    """Figures of a regression.

    Args:
        right: (n,) numbers.
        said: (n,) numbers.
    """
    variance, error = float(right.var()), right - said
    r2 = 1 - float((error**2).mean()) / variance if variance else None
    varied = variance > 0 and float(said.var()) > 0
    return {
        "score": 0.0 if r2 is None else min(1.0, max(0.0, r2)),
        "accuracy": None,
        "balanced_accuracy": None,
        "majority": None,
        "r2": r2,
        "mae": float(np.abs(error).mean()),
        "pearson": float(np.corrcoef(right, said)[0, 1]) if varied else None,
    }
