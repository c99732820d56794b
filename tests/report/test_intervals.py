"""Intervals against textbook cases, and against how often they hold the truth."""

import numpy as np
import pytest

from lit_narrative.report.intervals import bootstrap, share_change_interval, share_interval, student


def test_wilson_intervals() -> None:
    """The textbook case 8 of 10 (Brown, Cai and DasGupta 2001): 0.490 to 0.943."""
    assert share_interval(0.8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert share_interval(1.0, 256)[1] == pytest.approx(1.0)


def test_newcombe_interval() -> None:
    """56 of 70 against 48 of 80 (Newcombe 1998, table II, method 10): 0.0524 to 0.3339."""
    after, before = share_interval(56 / 70, 70), share_interval(48 / 80, 80)
    assert share_change_interval(before, after, (48 / 80, 56 / 70)) == pytest.approx((0.0524, 0.3339), abs=1e-4)


def test_an_interval_over_prompts_is_about_two_standard_errors() -> None:
    scores = np.random.default_rng(0).normal(5, 2, 400)
    low, high = bootstrap(scores) or (0, 0)
    margin = 1.96 * scores.std(ddof=1) / 20
    assert low == pytest.approx(scores.mean() - margin, abs=0.02)
    assert high == pytest.approx(scores.mean() + margin, abs=0.02)
    assert bootstrap(scores) == (low, high)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_interval_over_few_seeds_holds_the_truth_as_often_as_it_says(seeds: int) -> None:
    runs = np.random.default_rng(seeds).normal(3, 2, (2000, seeds)).tolist()
    found = [student(run) or (0, 0) for run in runs]
    assert np.mean([low <= 3 <= high for low, high in found]) == pytest.approx(0.95, abs=0.015)


def test_a_single_score_has_no_interval() -> None:
    assert bootstrap(np.array([0.5])) is None and student([0.5]) is None
    assert bootstrap(np.full(3, 0.5)) == student([0.5, 0.5]) == (0.5, 0.5)
