"""The engine: each of its rules on worlds small enough to play by hand, and the plays of plain worlds."""

from typing import Any

import numpy as np
import pytest

from lit_narrative.errors import UserError
from lit_narrative.tasks.storyworld.simulator.engine import Engine
from lit_narrative.tasks.storyworld.simulator.plan import make_plan
from lit_narrative.tasks.storyworld.simulator.play import Play, all_paths, play, plays
from lit_narrative.tasks.storyworld.world import is_plain
from tests.tasks.storyworld.lighthouse import Json, beacon, encounter, lighthouse, make, read
from tests.tasks.storyworld.simulator.test_quick_plays import corpus_worlds

ALWAYS: Json = {"all": []}


def reaction(to: Any, desirability: Any = 0, *effects: Json) -> Json:
    return {"desirability": desirability, "after_effects": list(effects), "next_encounter": to}


def choice(name: str, *reactions: Json, **more: Any) -> Json:
    return {"id": name, "text": name, "gates": [], "reactions": list(reactions), **more}


def once(*encounters: Json, top: Json | None = None, max_steps: int = 20, **settings: Any) -> Play:
    world = read({**make(*encounters), **(top or {})})
    return play(Engine(world, **settings), np.random.default_rng(0), max_steps=max_steps)


def path(played: Play) -> list[str]:
    return [step.encounter for step in played.steps]


@pytest.mark.parametrize("max_steps", [1, 3, 20])
def test_plays_of_plain_worlds_are_those_of_the_fast_simulator(max_steps: int) -> None:
    for world in [*corpus_worlds(60), read(lighthouse())]:
        assert is_plain(world)
        fast = list(plays(make_plan(world), 8, np.random.default_rng(5), max_steps=max_steps))
        assert fast == list(plays(Engine(world), 8, np.random.default_rng(5), max_steps=max_steps))


def test_the_most_desirable_reaction_follows_and_of_equals_the_first_or_the_last() -> None:
    go = choice("go", reaction("a", ["neg", "logs"]), reaction("b", 2), reaction("c", 2), reaction("d", 1))
    scenes = [encounter("hut", go), *map(encounter, "abcd")]
    assert path(once(*scenes)) == ["hut", "b"]
    assert path(once(*scenes, reaction_tie="last")) == ["hut", "c"]
    assert once(*scenes).steps[0].reaction == 1
    with pytest.raises(UserError, match="reaction_tie"):
        once(*scenes, reaction_tie="middle")


def test_reactions_that_do_not_lead_are_walked_with_the_next_that_does() -> None:
    silent = {"after_effects": [{"variable": "logs", "change": -1}]}
    go = choice("go", reaction("a", 0), silent, reaction("b", 1, {"variable": "Ada_calm", "change": 0.5}), silent)
    played = once(encounter("hut", go), encounter("a"), encounter("b"))
    assert (path(played), played.state) == (["hut", "b"], {"logs": 2, "Ada_calm": 0.5})
    lost = once(encounter("hut", choice("go", silent, silent)))
    assert (lost.outcome, lost.state["logs"]) == ("implicit", 1)


def test_effects_see_what_earlier_ones_left_and_each_is_clamped() -> None:
    effects: list[Json] = [
        {"variable": "Ada_calm", "op": "set", "value": 5},
        {"variable": "logs", "op": "add", "value": ["neg", "Ada_calm"]},
        {"variable": "Ada_calm", "op": "nudge", "value": -0.5},
        {"variable": "ghost", "op": "set", "value": 1},
    ]
    scene = encounter("hut", choice("go", reaction(None, 0, *effects)))
    assert once(scene).state == {"Ada_calm": 0, "logs": 2}
    assert once(scene, nudge="additive").state == {"Ada_calm": 0.5, "logs": 2}


def test_an_option_is_open_where_it_is_seen_and_can_be_performed() -> None:
    rich = [{"variable": "logs", "comparison": ">=", "value": 4}]
    scene = encounter("hut", choice("a", reaction(None), performable=rich), choice("b", reaction(None)))
    assert once(scene).steps[0].open == (False, True)
    assert once(encounter("hut", choice("a", reaction(None), performable=rich))).outcome == "stuck"


def test_selection_takes_the_most_desirable_acceptable_encounter_that_was_not_met() -> None:
    wild = choice("on", reaction("wild"))
    shut = {"acceptability": [{"variable": "logs", "comparison": ">", "value": 9}], "desirability": 9}
    scenes = [
        {**encounter("hut", wild), "desirability": 99},
        {**encounter("a", wild), "desirability": ["neg", "logs"]},
        {**encounter("b", wild), "desirability": 16.3},
        {**encounter("c", wild), "desirability": 16.3},
        {**encounter("d", wild), **shut},
    ]
    played = once(*scenes)
    assert (path(played), played.outcome, played.ending) == (["hut", "b", "c", "a"], "implicit", None)


def test_selection_keeps_to_active_spools_and_effects_change_them() -> None:
    late = {"spool": "late", "active": True}
    early = {"spool": "early", "active": {"not": ALWAYS}}
    scenes = [
        encounter("hut", choice("on", reaction("wild"))),
        {**encounter("a", choice("on", reaction("wild", 0, late, early))), "spools": ["early", "never"]},
        {**encounter("b", choice("on", reaction("wild"))), "spools": ["late"]},
        {**encounter("c"), "spools": ["early"], "desirability": -1},
        {**encounter("d"), "spools": ["never"]},
    ]
    top = {"spools": {"early": True, "late": False, "never": False}}
    assert path(once(*scenes, top=top)) == ["hut", "a", "b"]
    undeclared = once(encounter("hut", choice("on", reaction("wild"))), {**encounter("a"), "spools": ["ghost"]})
    assert path(undeclared) == ["hut", "a"]


def test_turns_bound_selection_and_the_clock_jumps_to_the_nearest() -> None:
    wild = choice("on", reaction("wild"))
    scenes = [
        encounter("hut", wild),
        {**encounter("past", wild), "turns": [0, 0], "acceptability": [{"any": []}]},
        {**encounter("early", wild), "turns": [0, 1], "desirability": 1},
        {**encounter("late", wild), "turns": [9, 12]},
        {**encounter("later", wild), "turns": [7, 7], "desirability": -5},
        {**encounter("never", wild), "turns": [8, 7], "desirability": 99},
        {**encounter("after", wild), "turns": [2, 2]},
    ]
    # Turn 1 takes "early", turn 2 "after"; then the clock jumps to 7 and, one choice later being 8, to 9.
    assert path(once(*scenes)) == ["hut", "early", "after", "later", "late"]


def test_an_encounter_that_is_named_follows_whatever_its_turns_and_spools() -> None:
    shut = {"turns": [50, 60], "spools": ["none"], "acceptability": [{"any": []}]}
    scenes = [encounter("hut", choice("on", reaction("a"))), {**encounter("a"), **shut}]
    assert once(*scenes, top={"spools": {"none": False}}).ending == "a"
    assert once(encounter("hut", choice("on", reaction("nowhere")))).outcome == "dangling"


def test_events_are_seen_once_they_happened() -> None:
    again = choice("again", reaction("hut", 0), reaction("hut", 1))
    left = choice("left", reaction(None), gates=[{"happened": "hut", "option": 0, "reaction": 1}])
    other = choice("other", reaction(None), gates=[{"happened": "hut", "option": 0, "reaction": 0}])
    scene = encounter("hut", again, left, other)
    played = once(scene, max_steps=2)
    assert played.steps[0].open == (True, False, False)
    longer = play(Engine(read(make(scene))), np.random.default_rng(0), lambda r, e, s, free: free[0], 2)
    assert longer.steps[1].open == (True, True, False)


def test_the_start_may_be_any_encounter() -> None:
    scenes = [encounter("a"), encounter("b")]
    assert path(once(*scenes, top={"start": "b"})) == ["b"]
    assert once(*scenes, top={"start": "nowhere"}).outcome == "dangling"


def test_a_loop_of_selection_ends_and_a_loop_of_names_is_cut_off() -> None:
    wild = choice("on", reaction("wild"))
    world = read(make(*[encounter(f"e{i}", wild) for i in range(300)]))
    played = play(world, np.random.default_rng(0), max_steps=10_000)
    assert (played.outcome, len(played.steps)) == ("implicit", 300)
    assert once(encounter("a", choice("x", reaction("a", ["max", 1, 2])))).outcome == "timeout"


def test_a_world_with_every_kind_of_script_is_played() -> None:
    (played,) = all_paths(read(beacon()))
    # With 3 of oil the first reaction's desirability is 0.99 - 1: the second one's, 0, is larger.
    assert (played.choices, played.steps[0].reaction, played.ending) == (("tend",), 1, "dawn")
    fuller = beacon()
    fuller["initial_state"]["oil"] = 2
    (played,) = all_paths(read(fuller))
    # The first one's makes the spool of "dawn" active, and selection finds it.
    assert (played.steps[0].reaction, played.ending, played.state["oil"]) == (0, "dawn", 1)
    assert played.state["Mara.calm"] == pytest.approx(0.1 * 0.7 + 0.3)


def test_hostile_names_never_reach_the_source_of_scripts() -> None:
    name = "0] = __import__('os').getcwd() #\n"
    effects: list[Json] = [{"variable": name, "op": "set", "value": ["+", name, 1]}, {"spool": name, "active": False}]
    go = choice(name, reaction("wild", [">", name, 0], *effects), reaction("wild", -1), gates=[{"happened": name}])
    scenes = [encounter(name, choice("on", reaction(name, 0, *effects)), go), {**encounter("b"), "spools": [name]}]
    world = read({**make(*scenes, state={name: 0}), "spools": {name: True}})
    played = play(world, np.random.default_rng(1), lambda r, e, s, free: free[-1])
    assert (played.outcome, played.state) == ("implicit", {name: 2})
