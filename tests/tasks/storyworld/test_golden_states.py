"""Measured vectors, plays and feature quality of the original system."""

import functools
import json
from typing import Any

import numpy as np
import pytest

from lit_narrative.tasks.storyworld.verifiers.base import VerifierConfig
from lit_narrative.tasks.storyworld.verifiers.score import score
from tests.paths import GOLDEN
from tests.tasks.storyworld.original_states import (
    original_affordances,
    original_feature_quality,
    original_rollout,
    original_state_vector,
)

FOLDER = GOLDEN
FILE = "storyworld_states.json"
WEIGHTS = {"valid_json": 0.25, "schema": 0.10, "structure": 0.15, "effects": 0.15, "secrets": 0.15, "endings": 0.10}
OF_THE_SEVENTH = 0.10


@functools.cache
def golden(name: str = FILE) -> Any:
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


def entries(key: str) -> list[Any]:
    """Names of the entries under a key; one entry that skips where the file is absent."""
    if not (FOLDER / FILE).exists():
        return [pytest.param("absent", marks=pytest.mark.skip(f"no golden values at {FOLDER}; set LIT_GOLDEN"))]
    value = golden()[key]
    return [case["name"] for case in value] if isinstance(value, list) else list(value)


def lighthouse() -> dict[str, Any]:
    world: dict[str, Any] = golden("storyworld_own_fixtures.json")["lighthouse_simple"]
    return world


def number(value: Any) -> Any:
    """The file writes NaN and infinity as words."""
    return float(value) if value in ("nan", "inf") else value


def no_code(encounter: str) -> int:
    raise AssertionError(f"{encounter!r}: a vector called stable must not need the encounter's code")


@pytest.mark.golden
@pytest.mark.parametrize("hash_seed", ["hashseed0", "hashseed1"])
@pytest.mark.parametrize("name", entries("cases"))
def test_vectors_of_the_original(name: str, hash_seed: str) -> None:
    (case,) = [case for case in golden()["cases"] if case["name"] == name]
    state = case["state"]
    if "variables" in state:
        state = {**state, "variables": {key: number(value) for key, value in state["variables"].items()}}
    code = no_code if case["stable_across_processes"] else golden()["encounter_code"][hash_seed].__getitem__
    expected = case[f"original_{hash_seed}"]
    for key, normalize in (("raw", False), ("normalized", True)):
        if isinstance(expected[key], dict):
            with pytest.raises(AttributeError, match=expected[key]["message"]):
                original_state_vector(state, normalize, code)
        else:
            vector = original_state_vector(state, normalize, code)
            assert vector.dtype == np.float32
            assert vector.tolist() == pytest.approx([number(v) for v in expected[key]], rel=1e-6, abs=1e-6, nan_ok=True)
    assert original_affordances(state) == expected["affordances"]


def world_of(name: str) -> dict[str, Any]:
    if name.startswith("lighthouse"):
        return lighthouse()
    if name.startswith("sweepweave"):
        world: dict[str, Any] = golden("storyworld_own_fixtures.json")["sweepweave_tiny"]
        return world
    nameless = [{key: value for key, value in scene.items() if key != "id"} for scene in lighthouse()["encounters"]]
    return {**lighthouse(), "encounters": nameless}


@pytest.mark.golden
@pytest.mark.parametrize("name", entries("rollouts"))
def test_plays_of_the_original(name: str) -> None:
    rng = np.random.RandomState(int(name[-1]))
    assert original_rollout(world_of(name), rng, max_steps=20) == golden()["rollouts"][name]


def encode(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.maximum(x, 0), x


@pytest.mark.golden
@pytest.mark.parametrize("name", entries("feature_quality"))
def test_feature_quality_of_the_original(name: str) -> None:
    expected = golden()["feature_quality"][name]
    if name.startswith("total"):
        text = json.dumps(lighthouse()) if name == "total_lighthouse" else "no JSON"
        made = score(text, mode="original", config=VerifierConfig()).components
        world = lighthouse() if name == "total_lighthouse" else {}
        seventh = original_feature_quality(world, encode, np.random.RandomState(0), no_code)
        total = sum(weight * made[key] for key, weight in WEIGHTS.items()) + OF_THE_SEVENTH * seventh
        assert {**made, "feature_quality": seventh} == pytest.approx(
            {k: v for k, v in expected.items() if k != "total"}
        )
        assert total == pytest.approx(expected["total"])
    elif name == "lighthouse":
        assert original_feature_quality(lighthouse(), encode, np.random.RandomState(0), no_code) == expected["value"]
    else:
        # The file holds no weights. Its state is always (1, -1), so features are constant and the value fixes the
        # reconstruction's error for any number of active features: here for none.
        error = -np.log((expected["value"] - 0.4) / 0.4)
        assert error > 0

        def silent(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            assert np.allclose(x, [[1, -1]])
            return np.zeros((len(x), 4)), x + np.sqrt(error)

        world = {"initial_state": {}, "encounters": [{"id": "e", "options": []}]}
        value = original_feature_quality(world, silent, np.random.RandomState(0), lambda encounter: 401)
        assert value == pytest.approx(expected["value"], rel=1e-6)


def test_the_three_terms_of_the_seventh_component() -> None:
    room = {"options": [{"reactions": [{"next_encounter": "b"}]}]}
    world = {"initial_state": {}, "encounters": [{"id": "a", **room}, {"id": "b", "options": []}]}

    def known(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.array([[1.0, 0.0], [1.0, 0.4]]), x + 1

    value = original_feature_quality(world, known, np.random.RandomState(0), {"a": 7, "b": 9}.__getitem__)
    assert value == pytest.approx(0.4 * (1 - 1.5 / 100) + 0.4 * np.exp(-1) + 0.2 * 10 * 0.02)


def test_a_play_is_bounded_and_a_dangling_id_ends_it() -> None:
    loop = {"id": "a", "options": [{"reactions": [{"next_encounter": "a"}]}]}
    assert (
        len(original_rollout({"initial_state": {}, "encounters": [loop]}, np.random.RandomState(0), max_steps=7)) == 7
    )
    lost = {"id": "a", "options": [{"reactions": [{"next_encounter": "z"}]}]}
    assert len(original_rollout({"initial_state": {}, "encounters": [lost]}, np.random.RandomState(0))) == 1
    assert original_rollout({"encounters": [loop]}, np.random.RandomState(0)) == []
