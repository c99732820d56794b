"""Figures of pairs, against trusted implementations and by hand."""

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from lit_narrative.tasks.style.agreement import PairResamples, auroc, equal_error_rate, rank_correlation

RNG = np.random.default_rng(0)
FOUND = np.round(RNG.normal(size=200), 1)  # rounded, so that there are ties
SCORES = np.clip(np.round(0.5 + 0.3 * FOUND + 0.3 * RNG.normal(size=200), 1), 0, 1)
ALIKE = SCORES > 0.5


def test_auroc_is_that_of_scikit_learn() -> None:
    weights = RNG.integers(0, 4, (5, 200)).astype(float)
    expected = [roc_auc_score(ALIKE, FOUND, sample_weight=row) for row in weights]
    np.testing.assert_allclose(auroc(FOUND, ALIKE, weights), expected)


def test_rank_correlation_is_that_of_scipy() -> None:
    found = rank_correlation(FOUND, SCORES, np.ones((1, 200)))
    np.testing.assert_allclose(found, [spearmanr(FOUND, SCORES).statistic])


def test_equal_error_rate() -> None:
    def rate(found: list[float], alike: list[int]) -> float:
        return float(equal_error_rate(np.array(found), np.array(alike, dtype=bool), np.ones((1, len(found))))[0])

    assert rate([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1]) == 0
    assert rate([0.1, 0.2, 0.8, 0.9], [1, 1, 0, 0]) == 1
    assert rate([0.1, 0.3, 0.2, 0.9], [0, 0, 1, 1]) == 0.5
    assert 0.3 < rate([0.5] * 4, [0, 1, 0, 1]) < 0.7


def test_what_is_not_defined_is_not_a_number() -> None:
    nothing = np.zeros(0)
    assert np.isnan(auroc(nothing, nothing.astype(bool), np.ones((2, 0)))).all()
    assert np.isnan(auroc(np.ones(3), np.ones(3, dtype=bool), np.ones((1, 3)))).all()
    assert np.isnan(rank_correlation(np.ones(3), np.arange(3.0), np.ones((1, 3)))).all()


def test_documents_are_resampled_and_not_pairs() -> None:
    # Of 4 documents only one is told apart: by pairs the figure would look certain.
    first = [f"book {number % 4}" for number in range(400)]
    resamples = PairResamples(first, ["other"] * 400)
    good = np.array([number % 4 == 0 for number in range(400)], dtype=float)
    with np.errstate(invalid="ignore"):
        values = (resamples.weights * good).sum(1) / resamples.weights.sum(1)
    record = resamples.figure("share", values)
    assert record["share"] == pytest.approx(0.25)
    low, high = record["share_ci"]
    assert low <= 0.01
    assert high >= 0.5


def test_one_document_has_no_interval() -> None:
    resamples = PairResamples(["a", "a"], ["a", "a"])
    assert resamples.figure("x", np.ones(len(resamples.weights))) == {"x": 1.0, "x_ci": None}
    assert resamples.figure("x", np.full(len(resamples.weights), np.nan)) == {"x": None, "x_ci": None}
