"""SAE features over splits: which belong to one distribution, and which are stable over several."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

import numpy as np
import torch
from torch import Tensor

from lit_narrative.circuits.analyses.residual_sae import Residuals
from lit_narrative.circuits.inputs import AnalysisInputs
from lit_narrative.circuits.tables import read_rows, write_rows
from lit_narrative.files import read_json, write_json
from lit_narrative.sae.metrics import Firing, reconstruction_metrics

if TYPE_CHECKING:
    from sae_lens import SAE


Kind = Literal["id_specific", "ood_specific", "stable", "between", "dead"]
SPECIFIC, STABLE = 2.0, 1.0
"""Bounds of |log2(ratio of firing rates)|: specific beyond the first, stable within the second."""
ALIVE, EPSILON = 1e-3, 1e-4
"""A feature is alive that fires on more than this share of either split's tokens; what is added to both rates."""


@dataclass(frozen=True)
class FeatureRow:
    """A feature on a split, against the split it was trained on.

    Attributes:
        feature: number of the latent.
        split: the other split.
        id_rate: share of the reference split's tokens that fire it.
        rate: share of this split's tokens that fire it.
        id_mean: its mean activation on the reference split where it fires.
        mean: the same on this split.
        log_ratio: log2 of the rates' ratio (reference split over this split).
        kind: id_specific, ood_specific, stable, between, or dead (on both).
    """

    feature: int
    split: str
    id_rate: float
    rate: float
    id_mean: float
    mean: float
    log_ratio: float
    kind: str


@dataclass(frozen=True)
class Fit:
    """Reconstruction of a split: mean squared error, explained variance (1 is exact), mean number of active latents."""

    split: str
    n: int
    mse: float
    explained_variance: float
    l0: float


@dataclass(frozen=True)
class ResidualFeatures:
    """Features over splits.

    Attributes:
        rows: one for each feature and other split.
        fits: one for each split.
        top: of each feature that is alive, the tokens that fire it most: feature, split, row, column, activation,
            text.
    """

    rows: tuple[FeatureRow, ...]
    fits: tuple[Fit, ...]
    top: tuple[Mapping[str, Any], ...]

    def counts(self, split: str) -> dict[str, int]:
        """Number of features of each kind on a split."""
        kinds = [row.kind for row in self.rows if row.split == split]
        return {kind: kinds.count(kind) for kind in get_args(Kind)}

    def save(self, folder: str | Path) -> Path:
        """Write features.csv and report.json."""
        folder = Path(folder)
        write_rows(folder / "features.csv", FeatureRow, self.rows)
        splits = dict.fromkeys(row.split for row in self.rows)
        report = {"fits": [asdict(fit) for fit in self.fits], "counts": {split: self.counts(split) for split in splits}}
        write_json(folder / "report.json", {**report, "top": self.top})
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` wrote."""
        stored = read_json(Path(folder, "report.json"))
        fits = tuple(Fit(**fit) for fit in stored["fits"])
        return cls(read_rows(Path(folder, "features.csv"), FeatureRow), fits, tuple(stored["top"]))


@torch.no_grad()
def compare_splits(
    sae: "SAE[Any]",
    splits: Mapping[str, Residuals],
    reference_split: str,
    inputs: Mapping[str, AnalysisInputs] | None = None,
    show: Callable[[Sequence[int]], str] | None = None,
    top: int = 5,
) -> ResidualFeatures:
    """Compare every feature's firing on the reference split with its firing on the other splits.

    Args:
        sae: the autoencoder.
        splits: activations by the name of their split.
        reference_split: the split that it was trained on.
        inputs: the rows of the splits, so that the top examples have text.
        show: turns token ids up to the firing one into text.
        top: examples of each feature.
    """
    latents = {name: sae.encode(split.vectors) for name, split in splits.items()}
    # Encoded once for all splits: firing rates, fits and examples read the same latents.
    fits = tuple(_fit(name, sae, latents[name], split.vectors) for name, split in splits.items())
    rates = {name: (active != 0).float().mean(0) for name, active in latents.items()}
    means = {name: active.sum(0) / (active != 0).sum(0).clamp(min=1) for name, active in latents.items()}
    first = reference_split
    rows = [
        row
        for name in splits
        if name != first
        for row in _rows(name, *(part.tolist() for part in (rates[first], rates[name], means[first], means[name])))
    ]
    alive = torch.stack(list(rates.values())).amax(0) > ALIVE
    examples = [
        example
        for feature in alive.nonzero().flatten().tolist()
        for example in _top(feature, latents, splits, inputs, show, top)
    ]
    return ResidualFeatures(tuple(rows), fits, tuple(examples))


def _fit(name: str, sae: "SAE[Any]", latents: Tensor, vectors: Tensor) -> Fit:
    errors = reconstruction_metrics(shared=False).to(vectors.device)
    firing = Firing(latents.shape[1], shared=False).to(vectors.device)
    errors.update(sae.decode(latents), vectors)
    firing.update(latents)
    metrics = {key: value.item() for key, value in errors.compute().items()}
    return Fit(name, len(vectors), metrics["mse"], metrics["explained_variance"], firing.compute()["l0"].item())


def _rows(
    split: str, id_rate: Sequence[float], rate: Sequence[float], id_mean: Sequence[float], mean: Sequence[float]
) -> list[FeatureRow]:
    rows = []
    for feature, (p, q, a, b) in enumerate(zip(id_rate, rate, id_mean, mean, strict=True)):
        ratio = float(np.log2((p + EPSILON) / (q + EPSILON)))
        rows.append(FeatureRow(feature, split, p, q, a, b, ratio, kind_of(p, q)))
    return rows


def kind_of(id_rate: float, rate: float) -> Kind:
    """The kind of a feature by its firing rates on the reference split and on another split."""
    if max(id_rate, rate) <= ALIVE:
        return "dead"
    ratio = np.log2((id_rate + EPSILON) / (rate + EPSILON))
    if abs(ratio) < STABLE:
        return "stable"
    if abs(ratio) <= SPECIFIC:
        return "between"
    return "id_specific" if ratio > 0 else "ood_specific"


def _top(
    feature: int,
    latents: Mapping[str, Tensor],
    splits: Mapping[str, Residuals],
    inputs: Mapping[str, AnalysisInputs] | None,
    show: Callable[[Sequence[int]], str] | None,
    count: int,
) -> list[dict[str, Any]]:
    best = []
    for name, active in latents.items():
        values, indices = active[:, feature].topk(min(count, len(active)))
        for value, index in zip(values.tolist(), indices.tolist(), strict=True):
            if value > 0:
                row, column = splits[name].rows[index].item(), splits[name].columns[index].item()
                best.append({"feature": feature, "split": name, "row": row, "column": column, "activation": value})
    chosen = sorted(best, key=lambda example: -example["activation"])[:count]
    if inputs is not None and show is not None:
        for example in chosen:
            split, read = inputs[example["split"]], slice(example["column"] + 1)  # up to the token that fires it
            tokens, mask = split.tokens[example["row"]][read], split.mask[example["row"]][read]
            example["text"] = show(tokens[mask].tolist())
    return chosen
