"""The writer of SweepWeave files: what the editor loads, what comes back, and that it plays the same."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_narrative.tasks.storyworld.formats.files import read_any
from lit_narrative.tasks.storyworld.formats.simple import read_world
from lit_narrative.tasks.storyworld.formats.sweepweave.read import read_sweepweave
from lit_narrative.tasks.storyworld.formats.sweepweave.rules import loader_issues
from lit_narrative.tasks.storyworld.formats.sweepweave.write import alternatives, stored_numbers, write_sweepweave
from lit_narrative.tasks.storyworld.generator import Skew, corpus
from lit_narrative.tasks.storyworld.issues import validator
from lit_narrative.tasks.storyworld.simulator.play import all_paths
from lit_narrative.tasks.storyworld.world import Reaction, World
from tests.paths import LIGHT, WORLDS
from tests.tasks.storyworld.lighthouse import beacon, encounter, lighthouse, make, option, read
from tests.tasks.storyworld.reference_play import every_path

Json = dict[str, Any]
RICH = Skew(
    encounters=(0, 0, 0.4, 0.3, 0.3),
    second_ending=0.9,
    gates=0.6,
    variables=(0, 0, 1),
    options=(0, 0.6, 0.4),
    structures=(0.2, 0.4, 0.4, 0),  # a round has more plays than the searches below go through
)
REAL = sorted(WORLDS.glob("*.json"))
EACH = REAL or [pytest.param(None, marks=pytest.mark.skip(f"no SweepWeave files in {WORLDS}; set LIT_WORLDS"))]


def exported(world: World) -> tuple[Json, World]:
    value = json.loads(json.dumps(write_sweepweave(world)))
    again, issues = read_sweepweave(value)
    assert issues == ()
    return value, again


def bare(world: World) -> list[Any]:
    """The world without the keys of other tools, which the writer adds to."""
    encounters = [
        replace(
            encounter,
            extra=None,
            options=tuple(
                replace(one, extra=None, reactions=tuple(replace(reaction, extra=None) for reaction in one.reactions))
                for one in encounter.options
            ),
        )
        for encounter in world.encounters
    ]
    return [world.characters, world.variables, world.properties, world.title, world.start, world.spools, encounters]


def endings(world: World) -> list[tuple[tuple[str, ...], str | None]]:
    """Every play, with the ending by the name of the encounter that the story was written to end at."""
    return sorted((taken, name and name.removesuffix("_end") if name else None) for taken, name in every_path(world))  # type: ignore[type-var]


def test_our_own_file_comes_back_as_it_was() -> None:
    value = json.loads(LIGHT.read_text(encoding="utf-8"))
    world, _ = read_sweepweave(value)
    written = write_sweepweave(world)
    assert read_sweepweave(written)[0] == world
    assert loader_issues(written) == ()
    lost = {key: value[key] for key in value if written[key] != value[key] and key not in ("encounters", "characters")}
    assert lost == {}
    for before, after in zip(value["encounters"], written["encounters"], strict=True):
        assert {key: before[key] for key in before if after[key] != before[key] and key != "options"} == {}


@pytest.mark.parametrize("seed", range(20))
def test_an_exported_world_plays_the_same_and_the_editor_loads_it(seed: int) -> None:
    world = read(json.loads(corpus(1, seed, RICH)[0].completion))
    value, again = exported(world)
    assert [issue for issue in loader_issues(value) if issue.severity == "error"] == []
    assert validator("sweepweave").is_valid(value)
    assert endings(again) == endings(world)
    texts = {one.id: {o.id: o.text for o in one.options} for one in world.encounters}
    plays = [
        (tuple(texts[step.encounter][name] for step, name in zip(one.steps, one.choices, strict=False)), one.ending)
        for one in all_paths(world, max_steps=12)
    ]
    assert sorted(set(endings(world))) == sorted({one for one in plays if len(one[0]) < 12 and one[1]})


def test_the_lighthouse_on_the_scale_of_the_editor() -> None:
    world = read(lighthouse())
    value, again = exported(world)
    assert endings(again) == endings(world)
    assert len(endings(world)) == 7
    assert [character["id"] for character in value["characters"]] == ["Mara", "Teo", "storyworld"]
    assert value["characters"][2]["bnumber_properties"] == {"oil": pytest.approx(3 / 5 * 0.99)}
    assert again.variables["Mara.trust"].initial == 0.1


def test_a_world_with_everything_comes_back() -> None:
    world = read(beacon())
    value = json.loads(json.dumps(write_sweepweave(world)))
    once, issues = read_sweepweave(value)
    assert [issue for issue in issues if issue.severity == "error"] == []
    assert read_sweepweave(json.loads(json.dumps(write_sweepweave(once))))[0] == once
    storm, dawn = once.encounters
    assert (storm.title, storm.turns, storm.spools) == ("Storm", (0, 3), ("first",))
    assert (once.title, once.start, once.spools) == ("Beacon", "storm", {"first": True, "late": False})
    assert storm.extra is not None
    assert storm.extra["place"] == {"x": 1}
    assert once.extra["author"] == "a keeper"
    assert storm.options[0].reactions[1].extra["tint"] == [1, 2]  # type: ignore[index]
    assert dawn.options == ()


def test_what_a_choice_leads_to_nowhere_or_to_the_end_is_a_page_that_ends() -> None:
    nowhere = option("lose", "nowhere")
    silent = {"id": "wait", "text": "Wait.", "gates": [], "reactions": [{"after_effects": []}]}
    world = read(
        make(encounter("hut", option("end", None), nowhere, silent, option("go", "hut_end")), encounter("hut_end"))
    )
    value, again = exported(world)
    assert [page["id"] for page in value["encounters"]] == ["hut", "hut_end", "hut_end_"]
    targets = [option.reactions[0].next_encounter for option in again.encounters[0].options]
    assert targets == ["hut_end_", "hut_end_", "hut_end_", "hut_end"]


@pytest.mark.parametrize("start", ["hut", "night"])
def test_a_play_starts_where_it_should(start: str) -> None:
    world = read(make(encounter("hut", option("go", "night")), encounter("night", option("end", None))))
    assert exported(replace(world, start=start))[1].start == start
    spools = {"a": False, "b": True}
    encounters = tuple(replace(one, spools=(name,)) for one, name in zip(world.encounters, spools, strict=True))
    assert exported(replace(world, start=start, spools=spools, encounters=encounters))[1].start == start


def test_times_of_every_kind_become_seconds() -> None:
    value = json.loads(LIGHT.read_text(encoding="utf-8"))
    value["creation_time"] = "2026-01-02T00:00:00"
    value["encounters"][0]["modified_time"] = "yesterday"
    value["characters"][0]["creation_time"] = 1732000000
    written = write_sweepweave(read_sweepweave(value)[0])
    assert written["creation_time"] == 1767312000.0
    assert written["encounters"][0]["modified_time"] == 0.0
    assert written["characters"][0]["creation_time"] == 1732000000.0


def test_numbers_by_keyring() -> None:
    assert stored_numbers({("p",): 0.1, ("p", "b"): 0.1}) == {"p": 0.1}
    assert stored_numbers({("p",): 0.1, ("p", "b"): 0.2}) == {"p": {"b": 0.2}}
    assert stored_numbers({("p", "b", "c"): 0.2, ("q",): 1.0}) == {"p": {"b": {"c": 0.2}}, "q": 1.0}


def test_alternatives_are_runs_up_to_a_reaction_that_leads() -> None:
    leads, stays = Reaction((), "hut"), Reaction((), None, leads=False)
    assert alternatives((stays, leads, leads, stays)) == [(stays, leads), (leads,), (stays,)]
    assert alternatives(()) == []


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_a_file_that_was_exported_once_is_exported_the_same_again(seed: int) -> None:
    once = exported(read_world(json.loads(corpus(1, seed, RICH)[0].completion))[0])[1]  # type: ignore[arg-type]
    assert exported(once)[1] == once


@pytest.mark.parametrize("path", EACH, ids=lambda path: getattr(path, "stem", "absent"))
def test_a_real_file_is_exported_so_that_the_editor_loads_all_of_it(path: Any) -> None:
    reading = read_any(path.read_text(encoding="utf-8"))
    assert reading.world is not None
    value = json.loads(json.dumps(write_sweepweave(reading.world)))
    assert [issue for issue in loader_issues(value) if issue.severity == "error"] == []
    if reading.dialect != "stub" and path.stat().st_size < 200_000:  # the schema takes seconds for larger ones
        assert next(validator("sweepweave").iter_errors(value), None) is None
    again = read_sweepweave(value)[0]
    assert read_sweepweave(json.loads(json.dumps(write_sweepweave(again))))[0] == again
    if reading.dialect == "editor":  # on the same scale, and with spools
        assert bare(again) == bare(reading.world)
