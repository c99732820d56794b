"""The table of measures, and the profile of a world's structure."""

import json

import pytest

from lit_narrative.tasks.storyworld.simulator.measures import Measure, measures
from lit_narrative.tasks.storyworld.simulator.profile import profile
from lit_narrative.tasks.storyworld.simulator.statistics import simulate
from lit_narrative.tasks.storyworld.world import World
from tests.tasks.storyworld.lighthouse import beacon, encounter, lighthouse, make, option, read


def test_the_table_of_the_lighthouse() -> None:
    found = simulate(read(lighthouse()), 2000, 0)
    table = {one.name: one for one in measures(found)}
    assert table["ended"].value == 1
    assert (table["dead_end_rate"].value, table["dead_end_rate"].met) == (0, True)
    assert table["largest_ending"].value == pytest.approx(7 / 8, abs=0.02)
    assert (table["largest_ending"].met, table["largest_ending"].aim) == (False, "≤ 30%")
    assert table["smallest_ending"].value == pytest.approx(1 / 8, abs=0.02)
    assert (table["reachability"].met, table["reachability"].aim) == (True, "≥ 100%")
    assert table["live_gates"].value == 0.5
    assert table["live_gates"].met is None
    assert (table["effective_endings"].aim, table["secret_reach"].aim) == ("≥ 4", "5% to 12%")
    assert table["secret_reach"].interval is not None
    assert len(table) == len(measures(found))
    assert json.loads(json.dumps([one.to_json() for one in table.values()], allow_nan=False))[0]["name"] == "ended"


def test_an_empty_world_has_a_table_and_a_profile() -> None:
    empty = World({}, {}, ())
    assert {one.name: one.value for one in measures(simulate(empty, 3, 0))}["dead_end_rate"] == 1
    assert all(one.value == 0 for one in profile(empty))


def test_the_profile_counts_what_is_there() -> None:
    table = {one.name: one.value for one in profile(read(beacon()))}
    assert table["options_per_encounter"] == 1
    assert table["reactions_per_option"] == 2
    assert table["effects_per_reaction"] == 2.5
    assert table["variables_per_desirability"] == 0.5
    assert table["visibility_gated"] == table["performability_gated"] == table["options_vary"] == 1
    assert table["desirability_operators"] == 1
    # Three effects of which two, "add" and "nudge", read their own variable, and the third one others.
    assert table["effect_varies"] == 1
    assert table["effect_operators"] == 8  # + nudge if xor > neg blend mean
    assert table["perceived"] == 1
    assert table["encounter_words"] == 2


def test_acts_are_told_apart_and_secrets_are_found() -> None:
    gated = option("x", None, gates=[("logs", ">", 1)])
    distance = {"expr": [">=", ["abs", ["-", "logs", "Ada_calm"]], 1]}
    scenes = [
        {**encounter("a", gated, option("y", None)), "spools": ["Act II"]},
        {**encounter("b", gated), "spools": ["act_iii_spool"]},
        {**encounter("page_act3_end", option("z", None))},
        {**encounter("compact2", gated)},
        {**encounter("page_secret_cave"), "acceptability": [distance]},
        {**encounter("page_secret_wood"), "acceptability": [{"expr": [">=", ["abs", "logs"], 1]}]},
    ]
    table = {one.name: one.value for one in profile(read(make(*scenes)))}
    assert table["act2_gated"] == 0.5
    assert table["act3_gated"] == 0.5
    assert table["act3_gate_variables"] == 1
    assert table["secret_distances"] == 0.5


def test_a_measure_without_an_aim_is_neither_met_nor_missed() -> None:
    assert Measure("x", 0.5, "a half").met is None
    assert Measure("x", 0.5, "a half").aim == ""
    assert Measure("x", 0.5, "a half", low=0.2, high=0.4).met is False
    assert Measure("x", 3.21, "three", share=False).shown(3.21) == "3.21"
