"""Exact chances: against all paths, by hand, and as the truth that intervals of simulations are held to."""

from collections import defaultdict
from functools import cache

import pytest

from lit_narrative.report.intervals import share_interval
from lit_narrative.tasks.storyworld.simulator.engine import Engine
from lit_narrative.tasks.storyworld.simulator.exact import exact
from lit_narrative.tasks.storyworld.simulator.play import all_paths
from lit_narrative.tasks.storyworld.simulator.statistics import tally
from lit_narrative.tasks.storyworld.world import World
from tests.tasks.storyworld.engine_worlds import scripted_worlds
from tests.tasks.storyworld.lighthouse import beacon, encounter, lighthouse, make, option, read
from tests.tasks.storyworld.simulator.test_quick_plays import corpus_worlds


def wild() -> World:
    """Two scenes in either order by a coin, one of them only early; then an ending for those without logs."""
    on = {**option("on", "wild"), "gates": []}
    slow = {**option("slow", "wild", {"logs": -3}), "gates": []}
    scenes = [
        encounter("hut", on, slow),
        {**encounter("early", on), "turns": [0, 1], "desirability": ["neg", "logs"]},
        {**encounter("wood", on, {**option("out", None)}), "desirability": -1},
        {**encounter("end"), "turns": [5, 9], "acceptability": [{"variable": "logs", "comparison": "<", "value": 1}]},
    ]
    return read(make(*scenes))


def test_chances_are_those_of_the_paths() -> None:
    for world in [*corpus_worlds(30), *scripted_worlds(30), read(lighthouse()), read(beacon()), wild()]:
        chances: defaultdict[str, float] = defaultdict(float)
        for path in all_paths(world, 100_000, 6):
            chance = 1.0
            for step in path.steps:
                chance /= sum(step.open) if step.choice is not None else 1
            chances[path.ending or f"({path.outcome})"] += chance
        found = exact(world, 6)
        told = {**found.endings, **{f"({name})": p for name, p in found.outcomes.items() if name != "ending"}}
        assert told == pytest.approx(dict(chances))
        assert sum(found.outcomes.values()) == pytest.approx(1)
        assert found.open_chance == 0


def test_chances_by_hand() -> None:
    assert exact(read(lighthouse())).endings == pytest.approx({"dawn": 1 / 8, "wreck": 7 / 8})
    # From the hut both go to "early", which is wanted more only by those without logs; the rest is in the wood at once.
    found = exact(wild())
    assert found.outcomes == pytest.approx({"ending": 0.75, "implicit": 0.25})
    assert found.endings == pytest.approx({"wood": 0.5, "end": 0.25})
    assert found.met == {0, 1, 2, 3}


def test_gates_that_can_be_met_open_and_closed() -> None:
    found = exact(read(lighthouse()))
    assert found.opened == {(1, 0), (2, 0), (3, 0), (4, 0)}
    assert found.shut == {(2, 0), (4, 0)}


def test_a_loop_is_cut_off_and_many_moments_leave_the_rest_open() -> None:
    loop = read(make(encounter("a", option("x", "a"), option("out", None))))
    assert exact(loop, 3).outcomes == pytest.approx({"ending": 7 / 8, "timeout": 1 / 8})
    grows = encounter("a", option("x", "a", {"logs": 0.01}), option("y", "a", {"logs": -0.02}), option("out", None))
    found = exact(read(make(grows)), most=50)
    assert found.moments <= 50
    assert found.open_chance == pytest.approx(1 - found.outcomes["ending"])
    assert exact(World({}, {}, ())).outcomes == {"dangling": 1}


def test_the_intervals_of_simulations_hold_the_truth_as_often_as_they_say() -> None:
    engine = Engine(wild())
    truth, interval = exact(engine).endings["end"], cache(lambda hits: share_interval(hits / 40, 40))
    found = [interval(tally(engine, 40, seed).endings["end"]) for seed in range(300)]
    # 95 % give or take three standard errors of 300 tries, 1.3 % each.
    assert 0.91 <= sum(low <= truth <= high for low, high in found) / 300 <= 0.99
