"""A linear probe on arrays: ridge regression or a logistic classifier, with held-out rows and shuffled controls."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np

from lit_narrative.circuits.analysis import AnalysisSettings, Layers
from lit_narrative.circuits.bridge import STREAM
from lit_narrative.errors import UserError, check_least, did_you_mean


class LabelledRows(NamedTuple):
    """Activations (n, d) with their targets (n,)."""

    x: np.ndarray
    y: np.ndarray

    @classmethod
    def known(cls, x: np.ndarray, y: np.ndarray) -> "LabelledRows":
        """The rows that have both: no NaN among the activations, and a target that is neither NaN nor empty."""
        numeric = np.issubdtype(y.dtype, np.floating)
        kept = np.isfinite(x).all(1) & (np.isfinite(y) if numeric else y.astype(str) != "")
        # In double precision: scikit-learn's solvers stop by differences that float32 does not resolve.
        return cls(x[kept].astype(np.float64), y[kept] if numeric else y[kept].astype(str))

    @property
    def numeric(self) -> bool:
        """Whether the targets are numbers and not classes."""
        return np.issubdtype(self.y.dtype, np.floating)

    def shuffled(self, rng: np.random.Generator) -> "LabelledRows":
        """The same activations with targets in another order."""
        return LabelledRows(self.x, rng.permutation(self.y))


@dataclass
class LinearProbe:
    """A fitted probe.

    Attributes:
        model: scikit-learn's pipeline of a scaler and a linear model.
        heldout: rows that it was not fitted on.
        seed: of the shuffles.
        controls: probes fitted to shuffled targets, each with the held-out rows in the same shuffle.
    """

    model: Any
    heldout: LabelledRows
    seed: int
    controls: list[tuple[Any, LabelledRows]] = field(default_factory=list)

    @classmethod
    def fit(cls, data: LabelledRows, settings: "ProbeSettings") -> Self | None:
        """Fit a probe; None where there are not two values to tell apart, or too few rows."""
        rng = np.random.default_rng(settings.seed)
        order = rng.permutation(len(data.y))
        cut = round(len(order) * settings.test_size)
        test, train = (LabelledRows(data.x[rows], data.y[rows]) for rows in (order[:cut], order[cut:]))
        # scikit-learn refuses a single class; and a probe that nothing is held out from cannot be judged.
        if not len(test.y) or len(np.unique(train.y)) < 2:
            return None
        probe = cls(_fit(train, settings), test, settings.seed)
        for _ in range(settings.controls):
            probe.controls.append((_fit(train.shuffled(rng), settings), test.shuffled(rng)))
        return probe

    def judge(self, split: str, data: LabelledRows) -> dict[str, Any]:
        """Scores on some rows (`class_scores` or `number_scores`), with ``control`` and ``selectivity``."""
        scores = _judge(self.model, data)
        control = self._control(split, data)
        return {**scores, "control": control, "selectivity": None if control is None else scores["score"] - control}

    def _control(self, split: str, data: LabelledRows) -> float | None:
        if not self.controls:
            return None
        # Seeded by the split's name, so that a split's control does not depend on which others are judged.
        rng = np.random.default_rng([self.seed, *split.encode()])
        scores = [
            _judge(model, heldout if data is self.heldout else data.shuffled(rng))["score"]
            for model, heldout in self.controls
        ]
        return float(np.mean(scores))

    def weights(self) -> dict[str, np.ndarray]:
        """Float32 arrays ``mean``, ``scale``, ``coef`` and ``intercept``."""
        scaler, linear = self.model[0], self.model[1]
        fitted = {"mean": scaler.mean_, "scale": scaler.scale_, "coef": linear.coef_, "intercept": linear.intercept_}
        return {name: np.atleast_1d(value).astype(np.float32) for name, value in fitted.items()}


def _fit(data: LabelledRows, settings: "ProbeSettings") -> Any:
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    linear = Ridge(alpha=settings.alpha) if data.numeric else LogisticRegression(C=settings.c, max_iter=2000)
    # Scaled first: one penalty must mean the same for every dimension of the stream.
    return make_pipeline(StandardScaler(), linear).fit(data.x, data.y)


def _judge(model: Any, data: LabelledRows) -> dict[str, Any]:
    predicted = model.predict(data.x)
    return number_scores(data.y, predicted) if data.numeric else class_scores(data.y, predicted)


def class_scores(right: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
    """Scores of a classifier on (n,) classes; a class that it never saw counts as wrong."""
    hits = right == predicted
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


def number_scores(right: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
    """Scores of a regression on (n,) numbers; ``score`` is R² clipped to 0..1, ``r2`` is as it is."""
    # Targets that are all equal have no R²: None, and not the -inf or NaN of the formula.
    variance, error = float(right.var()), right - predicted
    r2 = 1 - float((error**2).mean()) / variance if variance else None
    varied = variance > 0 and float(predicted.var()) > 0
    return {
        "score": 0.0 if r2 is None else min(1.0, max(0.0, r2)),
        "accuracy": None,
        "balanced_accuracy": None,
        "majority": None,
        "r2": r2,
        "mae": float(np.abs(error).mean()),
        "pearson": float(np.corrcoef(right, predicted)[0, 1]) if varied else None,
    }


@dataclass(frozen=True)
class ProbeSettings(AnalysisSettings):
    """Where probes are fitted, and how.

    Args:
        sites: activations of a block: resid_pre, resid_mid, resid_post, attn_out, mlp_out.
        layers: some of them, or all.
        places: names of positions.
        alpha: ridge penalty of probes for numbers.
        c: inverse penalty of logistic probes for classes.
        test_size: share of the fitted split that is held out.
        controls: shuffles that the control is the mean of; 0 for none.
        batch_size: rows of one forward pass.
        seed: of the held-out rows and the shuffles.
    """

    sites: Sequence[str] = ("resid_pre", "resid_post")
    layers: Layers = "all"
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
