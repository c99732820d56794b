"""Metrics of reward models, on rated texts and on preferences, and of judges, on pairs of texts."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import (
    KendallRankCorrCoef,
    MeanAbsoluteError,
    MeanSquaredError,
    Metric,
    MetricCollection,
    PearsonCorrCoef,
    SpearmanCorrCoef,
)
from torchmetrics.classification import BinaryAUROC, BinaryCalibrationError
from torchmetrics.functional import spearman_corrcoef
from torchmetrics.functional.classification import binary_roc
from torchmetrics.utilities import dim_zero_cat


class PairAccuracy(Metric):
    """Share of pairs of rated texts that are put in the right order; two equal predictions count half.

    All pairs of the texts seen are compared whose ratings differ; NaN if there are none.
    """

    # An update does not depend on the state before it, so torchmetrics need not update twice in a `forward`.
    full_state_update = False
    predicted: list[Tensor]
    rated: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Whole lists and not sums: pairs are compared across processes too.
        self.add_state("predicted", [], dist_reduce_fx="cat")
        self.add_state("rated", [], dist_reduce_fx="cat")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add texts: predicted and true ratings, (n,) each."""
        self.predicted.append(preds)
        self.rated.append(target)

    def compute(self) -> Tensor:
        """The share, in 0..1."""
        predicted, rated = dim_zero_cat(self.predicted), dim_zero_cat(self.rated)
        # Every pair stands twice in these tables, once each way round, which leaves the share as it is.
        order = torch.sign(predicted[:, None] - predicted)
        true_order = torch.sign(rated[:, None] - rated)
        return ((1 + order * true_order) / 2)[true_order != 0].mean()


class PreferenceAccuracy(Metric):
    """Share of preferences that are predicted; a probability of one half counts half."""

    full_state_update = False
    right: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("right", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add pairs: the probability (n,) that the first is preferred, and whether it is, 0 or 1."""
        self.right += ((1 + torch.sign(preds - 0.5) * (2 * target - 1)) / 2).sum()
        self.count += len(preds)

    def compute(self) -> Tensor:
        """The share, in 0..1."""
        return self.right / self.count


def rating_metrics() -> MetricCollection:
    """On predicted and true ratings: errors, correlations, and the order of pairs."""
    return MetricCollection(
        {
            "mse": MeanSquaredError(),
            "mae": MeanAbsoluteError(),
            "pearson": PearsonCorrCoef(),
            "spearman": SpearmanCorrCoef(),
            "kendall": KendallRankCorrCoef(),
            "pair_accuracy": PairAccuracy(),
        },
        # torchmetrics finds groups by comparing states after the first update, which few rows make equal by chance.
        compute_groups=False,
    )


def preference_metrics() -> MetricCollection:
    """On the probability that a text is preferred: accuracy, area under the ROC curve, expected calibration error."""
    return MetricCollection(
        {
            "preference_accuracy": PreferenceAccuracy(),
            "preference_auroc": BinaryAUROC(),
            "preference_calibration_error": BinaryCalibrationError(n_bins=15, norm="l1"),
        },
        compute_groups=False,
    )


def similarity_metrics(found: Tensor, scores: Tensor) -> dict[str, float]:
    """How well similarities (n,) follow scores (n,): ``spearman`` of all, and ``auroc`` and ``eer`` of telling apart.

    The latter are of the pairs of the highest score and of the lowest. ``eer`` is the error rate at the threshold where
    both kinds are mistaken equally often. What is not defined, as all scores are the same, is left out.
    """
    if len(scores) < 2 or len(scores.unique()) < 2:
        return {}
    metrics = {}
    if len(found.unique()) > 1:
        metrics["spearman"] = float(spearman_corrcoef(found, scores))
    clear = (scores == scores.max()) | (scores == scores.min())
    # Within 0..1: torchmetrics takes anything else for logits, whose sigmoid merges values that differ little.
    wrong, right, _ = binary_roc((found[clear].double() + 1) / 2, (scores[clear] == scores.max()).long())
    nearest = int((wrong - (1 - right)).abs().argmin())
    metrics["auroc"] = float(torch.trapezoid(right.double(), wrong.double()))
    metrics["eer"] = float((wrong[nearest] + 1 - right[nearest]) / 2)
    return metrics
