"""The generator: seeded, skewed, held-out splits disjoint, references sound."""

import json
import subprocess
import sys
from typing import Any

import pytest

from lit_narrative.errors import UserError
from lit_narrative.tasks.storyworld import themes
from lit_narrative.tasks.storyworld.generator import Skew, corpus, example
from lit_narrative.tasks.storyworld.verifiers.base import VerifierConfig
from lit_narrative.tasks.storyworld.verifiers.score import score


def worlds(n: int, seed: int = 0, skew: Skew | None = None) -> list[dict[str, Any]]:
    return [json.loads(row.completion) for row in corpus(n, seed, skew)]


def test_same_seed_same_corpus_in_another_process() -> None:
    code = "from lit_narrative.tasks.storyworld.generator import example as e; print(e(7, 3).completion)"
    other = subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": "5"}, capture_output=True, text=True)
    assert other.stdout.strip() == example(7, 3).completion


def test_an_example_does_not_depend_on_how_many_are_made() -> None:
    assert corpus(5, 1) == corpus(9, 1)[:5]
    assert corpus(5, 1) != corpus(5, 2)


def test_texts_are_unique() -> None:
    rows = corpus(2000, 0)
    assert len({row.completion for row in rows}) >= 0.99 * len(rows)


def test_splits_hold_out_themes_and_casts_whatever_the_seed() -> None:
    seen = {split: corpus(400, seed, split=split) for seed, split in enumerate(themes.SPLITS)}
    for key in ("theme", "cast"):
        values = {split: {row.meta[key] for row in rows} for split, rows in seen.items()}
        assert not values["train"] & values["val"]
        assert not values["train"] & values["test"]
        assert not values["val"] & values["test"]


def test_splits_share_out_every_theme_and_cast() -> None:
    assert sum(len(themes.themes(split)) for split in themes.SPLITS) == len(themes.PLACES) * len(themes.TROUBLES)
    assert all(len(themes.casts(split, 2)) > 15 for split in themes.SPLITS)


def test_the_prompt_names_what_the_world_holds() -> None:
    for row in corpus(50, 0):
        world = json.loads(row.completion)
        assert row.prompt.endswith(".\n")
        assert list(world["characters"]) == list(row.meta["cast"])
        assert list(world["properties"]) == list(row.meta["properties"])
        assert ", ".join(row.meta["cast"]) in row.prompt
        assert ", ".join(row.meta["properties"]) in row.prompt
        assert row.meta["theme"] in row.prompt


def test_references_resolve_and_values_keep_their_bounds() -> None:
    for world in worlds(300, skew=Skew(dangling=0)):
        scenes = {encounter["id"] for encounter in world["encounters"]}
        assert len(scenes) == len(world["encounters"])
        for option in (option for encounter in world["encounters"] for option in encounter["options"]):
            for reaction in option["reactions"]:
                assert reaction["next_encounter"] is None or reaction["next_encounter"] in scenes
                assert all(effect["variable"] in world["initial_state"] for effect in reaction["after_effects"])
            assert all(gate["variable"] in world["initial_state"] for gate in option["gates"])
        for name, value in world["initial_state"].items():
            bounds = world["properties"][name.rpartition("_")[2]]
            assert bounds["min"] <= value <= bounds["max"]


def share(result: list[bool]) -> float:
    return sum(result) / len(result)


def gated(world: dict[str, Any]) -> bool:
    return any(option["gates"] for encounter in world["encounters"] for option in encounter["options"])


def targets(world: dict[str, Any]) -> list[str | None]:
    options = [option for encounter in world["encounters"] for option in encounter["options"]]
    return [reaction["next_encounter"] for option in options for reaction in option["reactions"]]


def changed(world: dict[str, Any]) -> set[str]:
    options = [option for encounter in world["encounters"] for option in encounter["options"]]
    return {e["variable"] for option in options for r in option["reactions"] for e in r["after_effects"]}


@pytest.mark.parametrize(
    ("knob", "low", "high", "measure"),
    [
        ("gates", 0.0, 1.0, gated),
        ("third_character", 0.0, 1.0, lambda world: len(world["characters"]) == 3),
        ("variables", (1, 0, 0), (0, 0, 1), lambda world: len(changed(world)) > 1),
        ("encounters", (1, 0, 0, 0, 0), (0, 0, 0, 0, 1), lambda world: len(world["encounters"]) > 3),
        ("options", (1, 0, 0), (0, 0, 1), lambda world: len(world["encounters"][0]["options"]) > 1),
        ("closing_option", 0.0, 1.0, lambda world: bool(world["encounters"][-1]["options"])),
        (
            "dangling",
            0.0,
            1.0,
            lambda world: not set(targets(world)) <= {None, *(encounter["id"] for encounter in world["encounters"])},
        ),
        (
            "unreferenced",
            0.0,
            1.0,
            lambda world: not {encounter["id"] for encounter in world["encounters"][1:]} <= set(targets(world)),
        ),
        (
            "second_ending",
            0.0,
            1.0,
            lambda world: (
                sum(
                    encounter["text"].split(" at ")[0] in ("It ends", "All is lost")
                    or encounter["text"].startswith("Peace")
                    for encounter in world["encounters"]
                )
                == 2
            ),
        ),
        ("gated", 0.0, 1.0, gated),
        (
            "structures",
            (1, 0, 0, 0),
            (0, 0, 1, 0),
            lambda world: len(set(targets({"encounters": world["encounters"][:1]}))) > 1,
        ),
    ],
)
def test_every_knob_moves_the_corpus(knob: str, low: Any, high: Any, measure: Any) -> None:
    few, many = ([measure(world) for world in worlds(150, skew=Skew(**{knob: value}))] for value in (low, high))
    assert share(many) > share(few) + 0.2


@pytest.mark.parametrize("skew", [Skew(gates=0), Skew(encounters=(1, 0, 0, 0, 0))], ids=["no gates", "no place"])
def test_worlds_that_cannot_have_a_gate_are_drawn_without(skew: Skew) -> None:
    assert not any(gated(world) for world in worlds(20, skew=skew))


def test_a_knob_out_of_range_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"skew\.gates must lie in 0\.\.1; got 2"):
        Skew(gates=2)
    with pytest.raises(UserError, match=r"skew\.options must be 3 weights"):
        Skew(options=(1, 2))


def test_a_story_walks_the_round_of_rooms_of_its_place() -> None:
    rounds = [(rooms.split() * 2) for rooms in themes.PLACES.values()]
    order = list(themes.ACTIONS)
    for world in worlds(100, skew=Skew(dangling=0, unreferenced=0)):
        scenes = [encounter["id"] for encounter in world["encounters"]]
        assert any(scenes == rooms[start : start + len(scenes)] for rooms in rounds for start in range(8))
        for encounter in world["encounters"]:
            actions = [order.index(option["id"]) for option in encounter["options"] if option["id"] != "end"]
            assert actions == sorted(set(actions))


def test_the_default_corpus_has_no_faults_and_works_in_play() -> None:
    scores = [
        score(row.completion, config=VerifierConfig(weights={"playable": 1, "sound": 1})) for row in corpus(300, 5)
    ]
    assert all(one.components["schema"] == 1 for one in scores)
    shares = {name: sum(one.components[name] for one in scores) / 300 for name in ("playable", "sound")}
    assert min(shares.values()) > 0.95
