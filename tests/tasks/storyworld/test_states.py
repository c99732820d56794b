"""The state layout: fixed length for any world, the same in every process, finite for any state."""

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from lit_narrative.tasks.storyworld.formats.simple import read_world
from lit_narrative.tasks.storyworld.generator import corpus
from lit_narrative.tasks.storyworld.simulator.play import Play, all_paths, plays
from lit_narrative.tasks.storyworld.states import ACTIONS, POSITIONS, StateLayout, raw_vectors, scaled, slot_of, states
from lit_narrative.tasks.storyworld.world import Variable, World

HUT: dict[str, Any] = {
    "characters": {"Ada": {"initial_calm": 0}},
    "initial_state": {"Ada_calm": 0, "logs": 3},
    "properties": {"calm": {"min": -1, "max": 1}, "logs": {"min": 0, "max": 4}},
    "encounters": [
        {
            "id": "hut",
            "text": "Snow.",
            "options": [
                {
                    "id": "burn",
                    "text": "Burn a log.",
                    "gates": [],
                    "reactions": [{"after_effects": [{"variable": "logs", "change": -1}], "next_encounter": "night"}],
                },
                {
                    "id": "pray",
                    "text": "Pray.",
                    "gates": [{"variable": "Ada_calm", "comparison": ">", "value": 0}],
                    "reactions": [{"after_effects": [], "next_encounter": "night"}],
                },
            ],
        },
        {"id": "night", "text": "Night.", "options": []},
    ],
}


def world(value: dict[str, Any] = HUT) -> World:
    made, malformed = read_world(value)
    assert made is not None
    assert not malformed
    return made


def played(n: int = 30, seed: int = 0) -> list[tuple[World, list[Play]]]:
    worlds = [world(json.loads(row.completion)) for row in corpus(n, seed)]
    return [(made, list(plays(made, 3, np.random.default_rng(index)))) for index, made in enumerate(worlds)]


def test_each_fact_has_its_place() -> None:
    (play,) = all_paths(world())
    first, second = raw_vectors(world(), [play], slots=32)
    calm, logs = slot_of("Ada_calm", 32), slot_of("logs", 32)
    assert calm != logs
    assert (first[calm], first[logs]) == (0.0, 0.5)
    assert (second[calm], second[logs]) == (0.0, 0.0)
    assert np.flatnonzero(first[32:64]).tolist() == sorted((calm, logs))
    positions, actions = slice(64, 64 + POSITIONS), slice(64 + POSITIONS, 64 + POSITIONS + ACTIONS)
    assert (np.argmax(first[positions]), np.argmax(second[positions])) == (0, 1)
    assert (first[actions].sum(), second[actions].tolist()) == (0, [1, 0, 0, 0])
    assert first[-3:].tolist() == [0, 0, 0.5]
    assert second[-3:].tolist() == [1, 1 / 20, 1]
    assert first[-6:-3].tolist() == [0, 0, 0]
    assert second[-6:-3].tolist() == [0, -0.25, -0.125]


def test_two_variables_in_one_slot_are_averaged() -> None:
    (play,) = all_paths(world())
    first = raw_vectors(world(), [play], slots=1)[0]
    assert (first[0], first[1]) == (0.25, 1)


@pytest.mark.parametrize(
    ("value", "variable", "expected"),
    [
        (5, Variable(0, 0, 10), 0),
        (10, Variable(0, 0, 10), 1),
        (-7, Variable(0, 0, 10), -1),
        (3, Variable(0), 0.75),
        (-1, Variable(0, -1), -0.5),
        (2, Variable(2, 2, 2), 2 / 3),
        (float("inf"), Variable(0), 0),
        (float("nan"), Variable(0, 0, 1), 0),
    ],
)
def test_values_are_scaled_by_their_bounds(value: float, variable: Variable, expected: float) -> None:
    assert scaled(np.array([[value]]), [variable]).item() == pytest.approx(expected)


def test_the_corpus_it_was_fitted_on_is_standardised() -> None:
    made = played()
    layout = StateLayout.fit(made)
    stacked = np.concatenate([layout.vectors(*pair) for pair in made])
    assert stacked.shape == (sum(len(play.steps) for _, runs in made for play in runs), layout.dim)
    assert stacked.dtype == np.float32
    assert np.allclose(stacked.mean(0), 0, atol=1e-4)
    varied = layout.std > 0.05
    assert varied.sum() > 40
    assert np.allclose(stacked.std(0)[varied], 1, atol=1e-3)


def test_a_layout_reads_worlds_it_has_never_seen() -> None:
    layout = StateLayout.fit(played())
    vectors = layout.vectors(world(), all_paths(world()))
    assert vectors.shape == (2, layout.dim)
    assert np.isfinite(vectors).all()


def test_worlds_without_steps_or_variables_give_vectors_too() -> None:
    layout = StateLayout.fit(played())
    assert layout.vectors(world(), []).shape == (0, layout.dim)
    bare = world({**HUT, "initial_state": {}, "encounters": HUT["encounters"][1:]})
    assert layout.vectors(bare, all_paths(bare)).shape == (1, layout.dim)


def test_open_options_are_not_in_the_vector() -> None:
    shut = json.loads(json.dumps(HUT))
    shut["encounters"][0]["options"][1]["gates"] = []
    one, other = (raw_vectors(world(value), all_paths(world(value))[:1], 8)[0] for value in (HUT, shut))
    assert np.array_equal(one, other)


def test_rows_carry_context_affordances_and_origin() -> None:
    layout = StateLayout.fit(played())
    first, second = states(world(), all_paths(world()), layout, "w7")
    assert (first.context, first.affordances) == ("0", (True, False))
    assert (second.context, second.affordances) == ("1", ())
    assert first.meta["world"] == "w7"
    assert (second.meta["encounter"], second.meta["text"]) == ("night", "Night.")
    assert first.meta["options"] == ("burn", "pray")
    assert np.array_equal(first.vector, layout.vectors(world(), all_paths(world()))[0])


def test_json_round_trip_is_exact_and_another_version_is_refused() -> None:
    made = played()
    layout = StateLayout.fit(made, slots=16)
    back = StateLayout.from_json(json.loads(json.dumps(layout.to_json())))
    assert np.array_equal(back.vectors(*made[0]), layout.vectors(*made[0]))
    assert back.digest == layout.digest != StateLayout.fit(made[1:], slots=16).digest
    with pytest.raises(ValueError, match="version 0, this release reads 1"):
        StateLayout.from_json({**layout.to_json(), "version": 0})
    with pytest.raises(ValueError, match="16 slots needs 50 statistics; got 1"):
        StateLayout.from_json({**layout.to_json(), "mean": [0.0]})


def test_nothing_to_fit_on_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one state"):
        StateLayout.fit([(world(), [])])
    with pytest.raises(ValueError, match="slots must be at least 1; got 0"):
        StateLayout.fit(played(), slots=0)


def test_slots_and_vectors_are_the_same_in_another_process() -> None:
    code = (
        "from lit_narrative.tasks.storyworld.states import slot_of;"
        "print([slot_of(name, 64) for name in ('Mara_trust', 'oil', 'time')])"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True)
        for seed in ("1", "2")
    ]
    assert [run.stdout.strip() for run in runs] == [
        str([slot_of(name, 64) for name in ("Mara_trust", "oil", "time")])
    ] * 2
