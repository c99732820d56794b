"""Linear read-out with worlds kept apart."""

import numpy as np
import pytest

from lit_narrative.sae.readout import readout_auc, readouts


def states(seed: int, strength: float, worlds: int = 60, per_world: int = 10) -> tuple[np.ndarray, ...]:
    """Vectors of which one component leans on the answer; the rest names the world."""
    rng = np.random.default_rng(seed)
    world = np.repeat(np.arange(worlds), per_world)
    answers = rng.random(len(world)) < 0.3
    x = np.concatenate([rng.normal(size=(worlds, 6))[world], rng.normal(size=(len(world), 1))], axis=1)
    x[:, -1] += strength * answers
    return x, answers, np.tile(np.arange(per_world) % 2, worlds), world


def test_the_area_is_that_of_the_best_linear_rule() -> None:
    from scipy.stats import norm

    x, answers, contexts, worlds = states(0, strength=1.5, worlds=200)
    assert readout_auc(x, answers, contexts, worlds, seed=0) == pytest.approx(norm.cdf(1.5 / np.sqrt(2)), abs=0.03)


def test_an_answer_that_belongs_to_the_world_is_not_read_by_knowing_the_world() -> None:
    rng = np.random.default_rng(1)
    world = np.repeat(np.arange(40), 10)
    answers = rng.integers(0, 2, 40)[world].astype(bool)
    names = np.eye(40)[world]
    contexts = np.zeros(400, dtype=int)
    area = readout_auc(names, answers, contexts, world, seed=0)
    assert area is not None
    assert area <= 0.6


def test_what_the_context_tells_counts_for_nothing() -> None:
    rng = np.random.default_rng(2)
    world, contexts = np.repeat(np.arange(60), 10), np.tile([0, 1], 300)
    answers = rng.random(600) < np.where(contexts, 0.9, 0.1)
    assert readout_auc(np.eye(2)[contexts], answers, contexts, world, seed=0) == pytest.approx(0.5)


def test_permuted_answers_are_read_at_chance() -> None:
    x, answers, contexts, worlds = states(3, strength=2.0)
    made = readouts(x[:, -1:], x, answers, contexts, worlds, np.random.default_rng(0))
    assert made["sae"] is not None and made["sae"] > 0.85
    assert made["raw"] is not None and made["raw"] > 0.85
    assert made["permuted"] == pytest.approx(0.5, abs=0.06)


def test_nothing_to_compare_is_none_not_a_number() -> None:
    x, answers, contexts, worlds = states(4, strength=1.0)
    assert readout_auc(x, np.zeros_like(answers), contexts, worlds, seed=0) is None
    assert readout_auc(x, answers, contexts, np.zeros_like(worlds), seed=0) is None
    assert readout_auc(x[:0], answers[:0], contexts[:0], worlds[:0], seed=0) is None
