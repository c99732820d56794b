"""Linear probes: what can be read off a model's activations by a linear rule, here and on other distributions.

Each probe is fitted on three quarters of one split and judged on the rest of it and on every other split, beside a
control: the same probe fitted to shuffled answers (Hewitt and Liang 2019, https://arxiv.org/abs/1909.03368).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from lit_narrative.circuits.bridge import STREAM, check_layers
from lit_narrative.circuits.hooks import Progress, capture
from lit_narrative.circuits.inputs import Questions
from lit_narrative.circuits.tables import read_arrays, read_json, read_rows, write_arrays, write_rows
from lit_narrative.errors import UserError, check_least, did_you_mean
from lit_narrative.files import write_json

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True)
class ProbeSettings:
    """How probes are fitted.

    Args:
        sites: places in a block: resid_pre, resid_mid, resid_post, attn_out, mlp_out.
        layers: some of them, or all.
        places: names of columns.
        alpha: ridge penalty of probes for numbers.
        c: inverse penalty of logistic probes for classes.
        test_size: share of the fitted split that is held out.
        controls: shuffles that the control is the mean of; 0 for none.
        batch_size: rows of one forward pass.
        seed: of the held-out rows and the shuffles.
    """

    sites: Sequence[str] = ("resid_pre", "resid_post")
    layers: Literal["all"] | Sequence[int] = "all"
    places: Sequence[str] = ("answer",)
    alpha: float = 1.0
    c: float = 1.0
    test_size: float = 0.25
    controls: int = 1
    batch_size: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        for name in self.sites:
            if name not in STREAM:
                near = did_you_mean(name, STREAM)
                raise UserError(f"probes.sites: no {name!r}{near}; choose from {', '.join(STREAM)}")
        if not 0 < self.test_size < 1:
            raise UserError(f"probes.test_size is {self.test_size}; it must lie between 0 and 1")
        check_least("probes.controls", self.controls, 0)
        check_least("probes.batch_size", self.batch_size, 1)


class Where(NamedTuple):
    """Where activations were taken."""

    site: str
    layer: int
    place: str


Features = dict[Where, np.ndarray]
"""Activations (n, d) by where they were taken."""


def gather(bridge: "TransformerBridge", questions: Questions, settings: ProbeSettings | None = None) -> Features:
    """Activations of the rows at the sites, layers and places of the settings; NaN in rows that lack the place.

    Raises:
        UserError: A layer or place does not exist.
    """
    settings = settings or ProbeSettings()
    if questions.places is None:
        raise UserError("the rows have no named places to probe")
    places = questions.places.pick(settings.places)
    hooks = {
        (site, layer): f"blocks.{layer}.{STREAM[site]}"
        for layer in check_layers(bridge, settings.layers)
        for site in settings.sites
    }
    _, kept = capture(bridge, questions, hooks.values(), settings.batch_size)
    return {
        Where(site, layer, name): _at(kept[hook], places.columns[:, column])
        for (site, layer), hook in hooks.items()
        for column, name in enumerate(places.names)
    }


def _at(activation: Tensor, columns: Tensor) -> np.ndarray:
    """The vectors (n, d) at each row's own column; NaN where there is none."""
    own = activation[torch.arange(len(activation)), columns].cpu().numpy()
    own[columns.numpy() < 0] = np.nan
    return own


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


def fit_probes(
    features: Mapping[str, Features],
    targets: Mapping[str, Mapping[str, np.ndarray]],
    fit_on: str,
    settings: ProbeSettings | None = None,
    progress: Progress | None = None,
) -> Probes:
    """Fit a probe for every target at every place, and judge it on every split.

    Args:
        features: of each split, see `gather`.
        targets: of each split, (n,) answers by name. Floating point numbers are predicted by ridge regression, all else
            are classes of a logistic regression. Rows whose answer is NaN or an empty text, or that lack the place,
            are left out.
        fit_on: the split that probes are fitted on; its held-out rows are listed as ``<name>_heldout``.
        settings: how.
        progress: called with (probes fitted, of how many).

    Raises:
        UserError: There is no such split.
    """
    settings = settings or ProbeSettings()
    if fit_on not in features:
        raise UserError(f"probes: no split {fit_on!r} to fit on; there are: {', '.join(features)}")
    rows: list[ProbeRow] = []
    weights: dict[str, np.ndarray] = {}
    skipped: list[str] = []
    jobs = [(target, where) for target in targets[fit_on] for where in features[fit_on]]
    for done, (target, where) in enumerate(jobs, 1):
        sets = {split: _Set.of(features[split][where], targets[split][target]) for split in features}
        probe = _Probe.fitted(sets.pop(fit_on), settings)
        name = f"{target}.{where.site}.{where.layer}.{where.place}"
        if probe is None:
            skipped.append(name)
        else:
            sets = {f"{fit_on}_heldout": probe.heldout, **sets}
            rows += probe.rows(target, where, sets)
            weights |= {f"{name}.{part}": array for part, array in probe.weights().items()}
        if progress is not None:
            progress(done, len(jobs))
    return Probes(tuple(rows), weights, tuple(skipped))


class _Set(NamedTuple):
    """Rows with answers."""

    x: np.ndarray
    y: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray) -> "_Set":
        numeric = np.issubdtype(y.dtype, np.floating)
        known = np.isfinite(x).all(1) & (np.isfinite(y) if numeric else y.astype(str) != "")
        return cls(x[known].astype(np.float64), y[known] if numeric else y[known].astype(str))

    @property
    def numeric(self) -> bool:
        return np.issubdtype(self.y.dtype, np.floating)

    def shuffled(self, rng: np.random.Generator) -> "_Set":
        return _Set(self.x, rng.permutation(self.y))


@dataclass
class _Probe:
    """A fitted probe, its held-out rows, and its controls, each with the stream that shuffles other splits."""

    model: Any
    heldout: _Set
    seed: int
    controls: list[tuple[Any, _Set]] = field(default_factory=list)

    @classmethod
    def fitted(cls, data: _Set, settings: ProbeSettings) -> "_Probe | None":
        """The probe; None where there are not two answers to tell apart, or too few rows."""
        rng = np.random.default_rng(settings.seed)
        order = rng.permutation(len(data.y))
        cut = round(len(order) * settings.test_size)
        test, train = (_Set(data.x[rows], data.y[rows]) for rows in (order[:cut], order[cut:]))
        if not len(test.y) or len(np.unique(train.y)) < 2:
            return None
        made = cls(_fit(train, settings), test, settings.seed)
        for _ in range(settings.controls):
            made.controls.append((_fit(train.shuffled(rng), settings), test.shuffled(rng)))
        return made

    def rows(self, target: str, where: Where, sets: Mapping[str, _Set]) -> Iterator[ProbeRow]:
        for split, data in sets.items():
            if not len(data.y):
                continue
            figures = _judge(self.model, data)
            control = self._control(split, data)
            gain = None if control is None else figures["score"] - control
            kind = "number" if data.numeric else "class"
            yield ProbeRow(target, kind, *where, split, len(data.y), **figures, control=control, selectivity=gain)

    def _control(self, split: str, data: _Set) -> float | None:
        if not self.controls:
            return None
        rng = np.random.default_rng([self.seed, *split.encode()])
        scores = [
            _judge(model, own if data is self.heldout else data.shuffled(rng))["score"] for model, own in self.controls
        ]
        return float(np.mean(scores))

    def weights(self) -> dict[str, np.ndarray]:
        scaler, linear = self.model[0], self.model[1]
        fitted = {"mean": scaler.mean_, "scale": scaler.scale_, "coef": linear.coef_, "intercept": linear.intercept_}
        return {name: np.atleast_1d(value).astype(np.float32) for name, value in fitted.items()}


def _fit(data: _Set, settings: ProbeSettings) -> Any:
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    linear = Ridge(alpha=settings.alpha) if data.numeric else LogisticRegression(C=settings.c, max_iter=2000)
    return make_pipeline(StandardScaler(), linear).fit(data.x, data.y)


def _judge(model: Any, data: _Set) -> Any:
    said = model.predict(data.x)
    return number_scores(data.y, said) if data.numeric else class_scores(data.y, said)


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
