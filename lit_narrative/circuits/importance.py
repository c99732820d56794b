"""Which parts of a model matter, split by split and model by model, and whether two of them agree beyond chance."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np

from lit_narrative.circuits.tables import read_rows, write_rows
from lit_narrative.files import write_json

Metric = Literal["accuracy", "logprob", "logit_diff"]
MARGIN = 0.1
"""A split answered less than this above the majority's share says little about what its answers rest on."""


@dataclass(frozen=True)
class Importance:
    """What taking one part out costs: the unchanged model's figure less the ablated one's, so more is worse.

    Attributes:
        split: the questions asked.
        mode: what took the part's place.
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
        split: the questions asked.
        n: scored tokens.
        accuracy: share answered right.
        logprob: mean log-probability of the right token.
        logit_diff: mean lead of the right token.
        majority: what a constant answer would score.
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
        """The figure to rank parts by: accuracy, or the logit difference on a weak split."""
        return "logit_diff" if self.weak else "accuracy"


@dataclass(frozen=True)
class Overlap:
    """Whether two rankings of N parts choose the same ``k``.

    Attributes:
        first: name of one ranking.
        second: name of the other.
        k: parts in each set.
        shared: parts in both.
        jaccard: shared over the union.
        chance: what two random sets would have on average (hypergeometric).
        p_value: probability that random sets share as many.
        spearman: rank correlation of all N parts' figures; None where one of them is constant.
        weak: whether one of the splits is answered hardly better than by a constant.
    """

    first: str
    second: str
    k: int
    shared: int
    jaccard: float
    chance: float
    p_value: float
    spearman: float | None
    weak: bool


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
        """Figures of a split's parts by name, the largest first.

        Args:
            split: name of the split.
            metric: what to rank by; None takes the split's own (`Base.metric`).
            kinds: of parts; empty for all.
        """
        metric = metric or self.base(split).metric
        own = [row for row in self.rows if row.split == split and (not kinds or row.kind in kinds)]
        return {row.unit: getattr(row, metric) for row in sorted(own, key=lambda row: -getattr(row, metric))}

    def layer_profile(self, split: str) -> dict[int, float]:
        """Mean figure of each layer's parts, by the split's own metric."""
        base = self.base(split)
        layers: dict[int, list[float]] = {}
        for row in self.rows:
            if row.split == split:
                layers.setdefault(row.layer, []).append(getattr(row, base.metric))
        return {layer: float(np.mean(values)) for layer, values in sorted(layers.items())}

    def overlaps(self, top_k: float = 0.25, kinds: Sequence[str] = ()) -> tuple[Overlap, ...]:
        """Every two splits compared; both by the logit difference if one of them is weak."""
        made = []
        for place, a in enumerate(self.bases):
            for b in self.bases[place + 1 :]:
                made.append(compare(self, a.split, self, b.split, top_k, kinds))
        return tuple(made)

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


def compare(
    first: Ablation, split: str, second: Ablation, other: str, top_k: float = 0.25, kinds: Sequence[str] = ()
) -> Overlap:
    """A split of one model against a split of the same or another model (two checkpoints).

    Args:
        first: ablation of one model.
        split: of its splits.
        second: ablation of the other; the same parts were taken out.
        other: of its splits.
        top_k: share of the parts that count as important, at least one part.
        kinds: of parts; empty for all.
    """
    weak = first.base(split).weak or second.base(other).weak
    metric: Metric = "logit_diff" if weak else "accuracy"
    a, b = first.ranking(split, metric, kinds), second.ranking(other, metric, kinds)
    names = (split, other if first is second else f"{other} (2)")
    return overlap(a, b, max(1, round(top_k * len(a))), names, weak)


def overlap(
    a: Mapping[str, float], b: Mapping[str, float], k: int, names: tuple[str, str] = ("a", "b"), weak: bool = False
) -> Overlap:
    """Compare the ``k`` largest figures of two mappings over the same parts.

    Args:
        a: figures by part.
        b: figures by part.
        k: size of each set.
        names: of the two.
        weak: what to note.

    Raises:
        ValueError: The parts differ.
    """
    from scipy.stats import hypergeom, spearmanr

    if a.keys() != b.keys():
        raise ValueError("two rankings can be compared only over the same parts")
    tops = [set(sorted(ranking, key=lambda part: -ranking[part])[:k]) for ranking in (a, b)]
    shared, total = len(tops[0] & tops[1]), len(a)
    random = hypergeom(total, k, k)
    chance = sum(float(random.pmf(i)) * i / (2 * k - i) for i in range(k + 1))
    values = np.array([[ranking[part] for part in a] for ranking in (a, b)])
    constant = bool((np.ptp(values, axis=1) == 0).any())
    rank = None if constant else float(spearmanr(*values).statistic)
    jaccard = shared / (2 * k - shared)
    return Overlap(*names, k, shared, jaccard, chance, float(random.sf(shared - 1)), rank, weak)
