"""The importance of parts by ablation, the unchanged model beside it, and how much two splits agree."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, Self

import numpy as np

from lit_narrative.circuits.overlap import Overlap, overlap
from lit_narrative.circuits.tables import read_rows, write_rows
from lit_narrative.files import write_json

MARGIN = 0.1
"""A split answered less than this above the majority's share is weak: there is hardly a skill to lose."""
Metric = Literal["accuracy", "logprob", "logit_diff"]


@dataclass(frozen=True)
class Importance:
    """Importance of one part: the unchanged model's score less the ablated one's, so more is worse.

    Attributes:
        split: the rows.
        mode: what the part was replaced by.
        kind: heads, attn, mlp or neurons.
        unit: name of the part (``a0.h1``, ``m0`` …).
        layer: its layer.
        index: of the head or neuron.
        accuracy: loss of accuracy over the scored tokens.
        logprob: loss of the right token's log-probability.
        logit_diff: loss of its lead.
    """

    split: str
    mode: str
    kind: str
    unit: str
    layer: int
    index: int | None
    accuracy: float
    logprob: float
    logit_diff: float


@dataclass(frozen=True)
class Base:
    """The unchanged model on a split.

    Attributes:
        split: the rows.
        n: scored tokens.
        accuracy: share answered right.
        logprob: mean log-probability of the right token.
        logit_diff: mean lead of the right token.
        majority: accuracy of a constant answer.
    """

    split: str
    n: int
    accuracy: float
    logprob: float
    logit_diff: float
    majority: float

    @property
    def weak(self) -> bool:
        """Whether the answers are hardly better than a constant one, so that losses of accuracy mean little."""
        return self.accuracy < self.majority + MARGIN

    @property
    def metric(self) -> Metric:
        """The score to rank parts by: accuracy, or the logit difference on a weak split."""
        return "logit_diff" if self.weak else "accuracy"


@dataclass(frozen=True)
class Ablation:
    """Importance of every part on every split.

    Attributes:
        rows: one for each split and part.
        bases: the unchanged model, one for each split.
    """

    rows: tuple[Importance, ...]
    bases: tuple[Base, ...]

    def base(self, split: str) -> Base:
        """The unchanged model on a split."""
        return next(base for base in self.bases if base.split == split)

    def ranking(self, split: str, metric: Metric | None = None, kinds: Sequence[str] = ()) -> dict[str, float]:
        """Losses of a split's parts by name, the largest first.

        Args:
            split: name of the split.
            metric: what to rank by; None takes the split's own (`Base.metric`).
            kinds: of parts; empty for all.
        """
        metric = metric or self.base(split).metric
        rows = [row for row in self.rows if row.split == split and (not kinds or row.kind in kinds)]
        return {row.unit: getattr(row, metric) for row in sorted(rows, key=lambda row: -getattr(row, metric))}

    def layer_profile(self, split: str) -> dict[int, float]:
        """Mean loss of each layer's parts, by the split's own metric."""
        base = self.base(split)
        layers: dict[int, list[float]] = {}
        for row in self.rows:
            if row.split == split:
                layers.setdefault(row.layer, []).append(getattr(row, base.metric))
        return {layer: float(np.mean(values)) for layer, values in sorted(layers.items())}

    def compare(
        self, split: str, other: "Ablation", other_split: str, top_k: float = 0.25, kinds: Sequence[str] = ()
    ) -> Overlap:
        """Compare a split with one of the same or of another model; both by the logit difference if one is weak.

        Args:
            split: of this model.
            other: the ablation of the other model, of the same parts.
            other_split: of the other model.
            top_k: share of the parts that count as important, at least one part.
            kinds: of parts; empty for all.
        """
        weak = self.base(split).weak or other.base(other_split).weak
        metric: Metric = "logit_diff" if weak else "accuracy"
        a, b = self.ranking(split, metric, kinds), other.ranking(other_split, metric, kinds)
        names = (split, other_split if self is other else f"{other_split} (2)")
        return overlap(a, b, max(1, round(top_k * len(a))), names, weak)

    def overlaps(self, top_k: float = 0.25, kinds: Sequence[str] = ()) -> tuple[Overlap, ...]:
        """Every two splits compared."""
        pairs = [(a, b) for index, a in enumerate(self.bases) for b in self.bases[index + 1 :]]
        return tuple(self.compare(a.split, self, b.split, top_k, kinds) for a, b in pairs)

    def of_splits(self, splits: set[str]) -> Self:
        """The same on some splits only."""
        rows = tuple(row for row in self.rows if row.split in splits)
        return replace(self, rows=rows, bases=tuple(base for base in self.bases if base.split in splits))

    def save(self, folder: str | Path) -> Path:
        """Write ablation.csv, ablation_base.csv, and jaccard.json with overlaps and layer profiles."""
        folder = Path(folder)
        write_rows(folder / "ablation.csv", Importance, self.rows)
        write_rows(folder / "ablation_base.csv", Base, self.bases)
        profiles = {base.split: self.layer_profile(base.split) for base in self.bases}
        weak = [base.split for base in self.bases if base.weak]
        overlaps = [asdict(overlap) for overlap in self.overlaps()]
        write_json(folder / "jaccard.json", {"overlaps": overlaps, "layer_profiles": profiles, "weak_splits": weak})
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` wrote."""
        rows = read_rows(Path(folder, "ablation.csv"), Importance)
        return cls(rows, read_rows(Path(folder, "ablation_base.csv"), Base))
