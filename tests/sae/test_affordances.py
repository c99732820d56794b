"""The feature-affordance analysis on states made by hand."""

import json

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from lit_narrative.sae.affordances import Affordances, analyse, correlations, identify_top_features, top_states
from lit_narrative.views import State

LATENTS, PLANTED = 24, 5


def state(vector: np.ndarray, context: int, opens: tuple[bool, ...], world: int, text: str = "") -> State:
    meta = {"world": f"w{world}", "text": text, "encounter": f"e{context}", "options": ("a", "b", "c")[: len(opens)]}
    return State(vector.astype(np.float32), str(context), opens, meta)


def made(seed: int, planted: bool, worlds: int = 40) -> list[State]:
    """States whose vector is the code itself; where planted, latent 5 fires when an option is closed."""
    rng = np.random.default_rng(seed)
    rows = []
    for world in range(worlds):
        base = rng.normal(size=LATENTS)
        for number in range(12):
            context = number % 4
            vector = np.maximum(base + 0.5 * rng.normal(size=LATENTS) - 0.5, 0)
            closed = context != 3 and bool(rng.random() < 0.35)
            if planted:
                vector[PLANTED] = (1 + rng.random()) * (closed ^ (rng.random() < 0.05))
            opens = () if context == 3 else (True, not closed)
            rows.append(state(vector, context, opens, world, f"scene {context}"))
    return rows


def identity(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return x, x


def test_a_planted_feature_is_found_with_the_states_that_show_it() -> None:
    report = analyse(made(0, planted=True), identity, seed=0)
    assert report["significant"] == 1
    first = report["features"][0]
    assert (first["latent"], first["significant"]) == (PLANTED, True)
    assert first["correlation"] < -0.7
    assert first["normalised_mi"] > 0.5
    assert [top["closed"] for top in first["top_states"]].count(["b"]) >= 4
    assert report["readout"]["sae"] > 0.9
    assert report["targets"] == "some option is closed here"


def test_shuffled_affordances_show_no_signal() -> None:
    found = sum(analyse(made(seed, planted=False), identity, seed=seed)["significant"] for seed in range(10))
    assert found <= 1


def test_the_report_is_plain_json_of_the_agreed_shape() -> None:
    report = analyse(made(1, planted=True), identity, seed=0, n_top=3)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert len(report["density"]) == LATENTS
    assert len(report["features"]) == 3
    assert set(report["readout"]) == {"sae", "raw", "permuted"}
    assert set(report["features"][0]) == {
        *("latent", "density", "correlation", "conditional_mi", "normalised_mi", "p", "q", "significant", "top_states")
    }
    assert set(report["features"][0]["top_states"][0]) == {"activation", "text", "encounter", "open", "closed"}


def test_the_same_seed_gives_the_same_report() -> None:
    rows = made(2, planted=False)
    assert analyse(rows, identity, seed=3) == analyse(rows, identity, seed=3)


def test_states_without_any_closed_option_give_a_report_that_finds_nothing() -> None:
    rows = [state(row.vector, 0, (True, True), int(row.meta["world"][1:])) for row in made(0, planted=False)]
    report = analyse(rows, identity, seed=0)
    assert report["significant"] == 0
    assert report["readout"] == {"sae": None, "raw": None, "permuted": None}
    endings = analyse([state(row.vector, 3, (), 0) for row in rows[:5]], identity, seed=0)
    assert endings["significant"] == 0


def test_endings_ask_nothing() -> None:
    asked = Affordances.of([state(np.ones(2), 0, (True, False), 7), state(np.ones(2), 1, (), 7)])
    assert asked.rows.tolist() == [0]
    assert (asked.closed.tolist(), asked.open_count.tolist()) == ([True], [1])


def test_correlations_are_scipys_and_zero_for_constants() -> None:
    rng = np.random.default_rng(0)
    z, target = rng.normal(size=(50, 3)), rng.integers(0, 3, 50).astype(float)
    z[:, 2] = 1.5
    pearson, spearman = correlations(z, target), correlations(z, target, ranks=True)
    for feature in range(2):
        assert pearson[feature] == pytest.approx(pearsonr(z[:, feature], target).statistic)
        assert spearman[feature] == pytest.approx(spearmanr(z[:, feature], target).statistic)
    assert (pearson[2], spearman[2]) == (0, 0)
    assert correlations(z[:1], target[:1]).tolist() == [0, 0, 0]


@pytest.mark.parametrize("method", ["correlation", "spearman", "mutual_info", "conditional_mi"])
def test_every_method_puts_the_planted_feature_first(method: str) -> None:
    rows = made(3, planted=True)
    z = np.stack([row.vector for row in rows])
    top = identify_top_features(z, rows, 4, method)  # type: ignore[arg-type]
    assert top[0][0] == PLANTED
    assert len(top) == 4
    assert [abs(score) for _, score in top] == sorted((abs(score) for _, score in top), reverse=True)


def test_independent_affordances_correlate_with_no_feature() -> None:
    rng = np.random.default_rng(0)
    rows = [state(rng.normal(size=160), 0, tuple(rng.random(3) < 0.5), world) for world in range(1000)]
    z = np.stack([row.vector for row in rows])
    assert abs(identify_top_features(z, rows, 1, "correlation")[0][1]) < 0.12


def test_top_states_are_one_of_each_world_and_only_active_ones() -> None:
    rows = [state(np.ones(1), 0, (True, False), world) for world in (0, 0, 1, 2)]
    top = top_states(np.array([3.0, 4.0, 2.0, 0.0]), rows)
    assert [row["activation"] for row in top] == [4, 2]
    assert top[0]["open"] == ["a"]
    assert top[0]["closed"] == ["b"]
