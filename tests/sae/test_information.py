"""Conditional information and its whole-world permutation null."""

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from lit_narrative.sae.information import WorldPermutations, associate, conditional_information, quantise

NO_MINIMUM = 1


def clustered(seed: int, worlds: int = 40, per_world: int = 12, features: int = 30) -> tuple[np.ndarray, ...]:
    """Activations, answers, contexts and worlds; activations and answers belong to the world, but not to each other."""
    rng = np.random.default_rng(seed)
    world = np.repeat(np.arange(worlds), per_world)
    z = np.maximum(rng.normal(size=(worlds, features))[world] + 0.3 * rng.normal(size=(len(world), features)), 0)
    answers = (rng.random(worlds)[world] + 0.2 * rng.normal(size=len(world))) > 0.6
    return z, answers, np.tile(np.arange(per_world) % 3, worlds), world


def test_levels_are_silence_and_quantiles_of_the_active_values() -> None:
    z = np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [4.0, 5.0]])
    assert quantise(z, bins=4).T.tolist() == [[0, 1, 2, 3, 4], [0, 0, 0, 0, 1]]
    assert quantise(z, bins=2).T[0].tolist() == [0, 1, 1, 2, 2]


def test_equal_values_get_one_level() -> None:
    assert set(quantise(np.full((9, 1), 0.7))[:, 0]) == {1}


def test_information_in_one_context_is_the_plug_in_value_less_the_correction() -> None:
    rng = np.random.default_rng(0)
    levels, answers = rng.integers(0, 3, (400, 2)), rng.random(400) < 0.3
    levels[answers, 0] = 2
    bits, entropy = conditional_information(levels, answers[None], np.zeros(400, dtype=int))
    for feature in range(2):
        plug_in = mutual_info_score(levels[:, feature], answers) / np.log(2)
        cells = len(set(zip(levels[:, feature].tolist(), answers.tolist(), strict=True)))
        correction = (cells - 3 - 2 + 1) / (2 * 400 * np.log(2))
        assert bits[0, feature] == pytest.approx(max(plug_in - correction, 0))
    share = answers.mean()
    assert entropy[0] == pytest.approx(-share * np.log2(share) - (1 - share) * np.log2(1 - share))


def test_what_the_context_tells_is_not_counted() -> None:
    contexts = np.repeat([0, 1], 100)
    answers = contexts == 1
    levels = contexts[:, None]
    assert conditional_information(levels, answers[None], contexts)[0][0, 0] == 0
    assert conditional_information(levels, answers[None], np.zeros(200, dtype=int))[0][0, 0] > 0.99


def test_an_answer_told_by_the_feature_has_its_whole_entropy() -> None:
    rng = np.random.default_rng(1)
    answers, contexts = rng.random(3000) < 0.4, rng.integers(0, 3, 3000)
    bits, entropy = conditional_information(answers[:, None].astype(np.int8), answers[None], contexts)
    assert bits[0, 0] == pytest.approx(entropy[0], rel=0.01)


def test_contexts_are_weighted_by_their_states_and_small_ones_left_out() -> None:
    contexts = np.repeat([0, 1, 2], [60, 20, 5])
    answers = np.tile([True, False], 43)[:85]
    levels = np.where(contexts == 0, answers, 0)[:, None].astype(np.int8)
    bits, entropy = conditional_information(levels, answers[None], contexts)
    assert entropy[0] == pytest.approx(1)
    assert bits[0, 0] == pytest.approx(0.75, abs=0.02)
    assert conditional_information(levels, answers[None], contexts, min_stratum=61)[0][0, 0] == 0


def test_the_correction_removes_the_bias_of_independent_variables() -> None:
    rng = np.random.default_rng(2)
    levels, answers = rng.integers(0, 5, (60, 400)), rng.random(60) < 0.5
    raw = np.mean([mutual_info_score(levels[:, f], answers) / np.log(2) for f in range(400)])
    bits, _ = conditional_information(levels, answers[None], np.zeros(60, dtype=int))
    assert bits.mean() < 0.4 * raw


def test_every_labelling_is_measured_as_if_alone() -> None:
    z, answers, contexts, _ = clustered(0)
    levels = quantise(z)
    labellings = np.stack([answers, ~answers, np.roll(answers, 5)])
    together, entropies = conditional_information(levels, labellings, contexts)
    for row, labelling in enumerate(labellings):
        alone, entropy = conditional_information(levels, labelling[None], contexts)
        assert np.allclose(together[row], alone[0])
        assert entropies[row] == entropy[0]


def test_a_permutation_keeps_answers_in_their_context_and_moves_worlds_as_a_whole() -> None:
    worlds = np.repeat(np.arange(6), 4)
    contexts = np.tile([0, 0, 1, 1], 6)
    tags = worlds * 10 + np.tile([0, 1, 2, 3], 6)
    for drawn in WorldPermutations(contexts, worlds).draw(tags, 20, np.random.default_rng(0)):
        assert (drawn % 10 == tags % 10).all()
        origin = (drawn // 10).reshape(6, 4)
        assert (origin == origin[:, :1]).all()
        assert sorted(origin[:, 0]) == list(range(6))
        assert (origin[:, 0] != np.arange(6)).all()


def test_worlds_of_unequal_size_are_permuted_too() -> None:
    rng = np.random.default_rng(3)
    worlds, contexts = rng.integers(0, 9, 80), rng.integers(0, 4, 80)
    answers = rng.random(80) < 0.5
    drawn = WorldPermutations(contexts, worlds).draw(answers, 200, rng)
    assert drawn.shape == (200, 80)
    assert drawn.mean() == pytest.approx(answers.mean(), abs=0.05)
    for context in range(4):
        if len(set(answers[contexts == context])) == 1:
            assert (drawn[:, contexts == context] == answers[contexts == context][0]).all()


def test_worlds_that_are_alike_within_give_no_false_finds() -> None:
    found = 0
    for seed in range(20):
        z, answers, contexts, worlds = clustered(seed)
        result = associate(quantise(z), answers, contexts, worlds, np.random.default_rng(seed), permutations=500)
        found += int((result.q < 0.05).sum())
    assert found <= 2


def test_p_values_are_uniform_where_nothing_is_to_be_found() -> None:
    p = []
    for seed in range(12):
        z, answers, contexts, worlds = clustered(seed, features=20)
        p += associate(quantise(z), answers, contexts, worlds, np.random.default_rng(seed), permutations=300).p.tolist()
    assert 0.02 < np.mean(np.array(p) < 0.1) < 0.2


def test_permuting_states_instead_of_worlds_would_find_many() -> None:
    found = 0
    for seed in range(5):
        z, answers, contexts, _ = clustered(seed)
        alone = np.arange(len(answers))
        found += int(
            (associate(quantise(z), answers, contexts, alone, np.random.default_rng(seed), 500).q < 0.05).sum()
        )
    assert found > 20


def test_a_planted_feature_is_found_and_nothing_else() -> None:
    z, answers, contexts, worlds = clustered(4)
    rng = np.random.default_rng(4)
    z[:, 7] = np.where(answers ^ (rng.random(len(answers)) < 0.1), 1 + rng.random(len(answers)), 0)
    result = associate(quantise(z), answers, contexts, worlds, rng)
    assert np.flatnonzero(result.q < 0.05).tolist() == [7]
    assert result.p[7] == pytest.approx(1 / 5001)
    assert result.normalised[7] > 0.4
    assert np.argmax(result.bits) == 7


def test_constant_features_and_certain_answers_tell_nothing() -> None:
    z, answers, contexts, worlds = clustered(5)
    z[:, 3] = 0
    result = associate(quantise(z), answers, contexts, worlds, np.random.default_rng(0), permutations=100)
    assert (result.bits[3], result.p[3], result.q[3]) == (0, 1, 1)
    certain = associate(quantise(z), np.zeros_like(answers), contexts, worlds, np.random.default_rng(0))
    assert (certain.p == 1).all()
    assert (certain.normalised == 0).all()


def test_no_states_at_all() -> None:
    empty = np.zeros(0, dtype=int)
    result = associate(np.zeros((0, 4), dtype=np.int8), empty.astype(bool), empty, empty, np.random.default_rng(0))
    assert result.bits.tolist() == [0] * 4
    assert result.q.tolist() == [1] * 4
