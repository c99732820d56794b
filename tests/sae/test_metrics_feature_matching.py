"""Matching two dictionaries."""

import numpy as np
import pytest

from lit_narrative.sae.metrics import match_features


def test_a_shuffled_dictionary_is_put_back_in_order() -> None:
    rng = np.random.default_rng(0)
    old = rng.normal(size=(12, 5)).astype(np.float32)
    order = rng.permutation(12)
    matching = match_features(old, 3 * old[order])
    assert np.array_equal((old[order])[matching.permutation], old)
    assert matching.mean_cosine == pytest.approx(1)


def test_the_sum_of_cosines_is_maximal_not_each_one() -> None:
    old = np.array([[1.0, 0.0], [0.8, 0.6]])
    new = np.array([[0.9, 0.1], [1.0, -0.3]])
    matching = match_features(old, new)
    assert matching.permutation.tolist() == [1, 0]
    assert matching.cosines[0] == pytest.approx(1 / np.sqrt(1.09))


def test_a_zero_direction_has_cosine_zero() -> None:
    assert match_features(np.eye(2), np.array([[0.0, 0.0], [0.0, 2.0]])).cosines.tolist() == [0, 1]


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"\(3, 2\) and \(2, 2\)"):
        match_features(np.ones((3, 2)), np.ones((2, 2)))


def test_a_feature_continues_one_of_its_group() -> None:
    new = np.eye(4)[[3, 0, 1, 2]]
    assert match_features(np.eye(4), new).permutation.tolist() == [1, 2, 3, 0]
    found = match_features(np.eye(4), new, np.array([0, 0, 1, 1]))
    assert sorted(found.permutation[:2].tolist()) == [0, 1]
    assert sorted(found.permutation[2:].tolist()) == [2, 3]
    assert found.cosines.max() <= 1
