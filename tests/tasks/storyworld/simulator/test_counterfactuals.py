"""Gates that are flipped: what moves, what does not, and how sure that is."""

import pytest

from lit_narrative.tasks.storyworld.simulator.counterfactuals import gate_effects, moving
from lit_narrative.tasks.storyworld.simulator.engine import Engine
from lit_narrative.tasks.storyworld.simulator.exact import exact
from tests.tasks.storyworld.lighthouse import encounter, lighthouse, make, option, read


def test_the_movement_of_each_gate_is_that_of_exact_chances() -> None:
    world = read(lighthouse())
    effects = gate_effects(world, runs=1500, seed=1)
    assert [(one.encounter, one.option) for one in effects] == [
        ("boat", "signal"),
        ("cellar", "dig"),
        ("dawn", "confess"),
        ("wreck", "mourn"),
    ]
    before = exact(world).endings
    for (i, j), effect in zip([(1, 0), (2, 0), (3, 0), (4, 0)], effects, strict=True):
        after = exact(Engine(world, flipped=[(i, j)])).endings
        truth = 0.5 * sum(abs(after.get(name, 0) - before.get(name, 0)) for name in {*before, *after})
        assert effect.moved == pytest.approx(truth, abs=0.04)
        assert effect.interval[0] - 0.02 <= truth <= effect.interval[1] + 0.02
        for shift in effect.shifts:
            low, high = shift.interval
            assert low <= shift.change <= high
    # The gates of the last encounters change how the story ends in words only.
    assert [one.moved for one in effects[2:]] == [0, 0]
    assert [(one.encounter, one.option) for one in moving(effects)] == [("cellar", "dig"), ("boat", "signal")]


def test_a_gate_that_no_play_comes_to_is_left_out_and_the_number_is_bounded() -> None:
    shut = option("door", None, gates=[("logs", ">", 9)])
    world = read(make(encounter("a", shut, option("out", "b")), encounter("b", shut, shut), encounter("c", shut)))
    effects = gate_effects(world, runs=20)
    assert [one.encounter for one in effects] == ["a", "b", "b"]
    assert (effects[0].met, effects[1].met) == (1, 1)
    # With the door open nobody is stuck.
    assert {shift.end: shift.change for shift in effects[1].shifts} == {"(stuck)": -1, "b": 1}
    assert len(gate_effects(world, runs=5, most=2)) == 2
    with pytest.raises(ValueError, match="runs is 0"):
        gate_effects(world, runs=0)


def test_versions_of_a_costly_world_are_played_less_often() -> None:
    wide = [option(f"o{i}", "b", gates=[("logs", ">", i)]) for i in range(3000)]
    (effect, *_) = gate_effects(read(make(encounter("a", *wide), encounter("b"))), runs=10**9, max_steps=5000, most=3)
    assert effect.met == 1
