"""The metrics of a reward model, by hand."""

import pytest
import torch

from lit_narrative.rl.rewards.metrics import PairAccuracy, PreferenceAccuracy, preference_metrics, rating_metrics


def test_pair_accuracy_counts_pairs_whose_ratings_differ() -> None:
    metric = PairAccuracy()
    metric.update(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 0.5]))
    metric.update(torch.tensor([2.0, 0.0]), torch.tensor([1.0, 1.0]))
    # right: 1-2, 1-3; tied: 2-3; wrong: 1-4, 2-4; the ratings of 3-4 are equal
    assert float(metric.compute()) == pytest.approx((2 + 0.5) / 5)


def test_pair_accuracy_of_equal_ratings_is_unknown() -> None:
    metric = PairAccuracy()
    metric.update(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 3.0]))
    assert metric.compute().isnan()


def test_preference_accuracy_counts_an_even_chance_half() -> None:
    metric = PreferenceAccuracy()
    metric.update(torch.tensor([0.9, 0.5, 0.2]), torch.tensor([1, 1, 1]))
    assert float(metric.compute()) == pytest.approx(0.5)


def test_rating_metrics_of_a_perfect_order_at_another_scale() -> None:
    metrics = rating_metrics()
    rated = torch.tensor([0.0, 1.0, 2.0, 3.0])
    metrics.update(2 * rated, rated)
    found = {name: float(value) for name, value in metrics.compute().items()}
    assert found["mse"] == pytest.approx((0 + 1 + 4 + 9) / 4)
    assert found["mae"] == pytest.approx(1.5)
    for name in ("pearson", "spearman", "kendall", "pair_accuracy"):
        assert found[name] == pytest.approx(1.0, abs=1e-5)


def test_preference_metrics_of_a_calibrated_judge() -> None:
    metrics = preference_metrics()
    chance = torch.full((4,), 0.75)
    metrics.update(torch.cat([chance, 1 - chance]), torch.tensor([1, 1, 1, 0, 0, 0, 0, 1]))
    found = {name: float(value) for name, value in metrics.compute().items()}
    assert found["preference_accuracy"] == pytest.approx(0.75)
    assert found["preference_calibration_error"] == pytest.approx(0.0, abs=1e-6)
    assert found["preference_auroc"] == pytest.approx(0.75)
