"""Counts over plays: visits, moves and the course of the variables against the plays themselves."""

import numpy as np
import pytest

from lit_narrative.tasks.storyworld.simulator.engine import Engine
from lit_narrative.tasks.storyworld.simulator.play import Play
from lit_narrative.tasks.storyworld.simulator.statistics import tally
from tests.tasks.storyworld.lighthouse import beacon, lighthouse, read


def test_counts_are_those_of_the_plays() -> None:
    kept: list[Play] = []
    engine = Engine(read(lighthouse()))
    found = tally(engine, 300, 4, keep=kept.append)
    assert found.runs == len(kept) == 300
    assert found.visits[0] == 300
    assert found.visits[3] == sum("dawn" in [step.encounter for step in play.steps] for play in kept)
    assert found.moves[0, 1] == 300
    assert found.moves[2, 3] + found.moves[2, 4] == 300
    late = [step.open for play in kept for step in play.steps[2:]]  # each has four steps: the last third is two
    assert (found.late, found.late_closed) == (4 * 300, sum(not free for bits in late for free in bits))
    states = np.array([[list(step.state.values()) for step in play.steps] for play in kept])
    assert found.course.counts == [300] * 4
    assert found.course.means == pytest.approx(states.mean(0))
    assert found.course.stds == pytest.approx(states.std(0))


def test_an_option_that_can_be_seen_and_not_performed_is_gated() -> None:
    value = beacon()
    value["encounters"][0]["options"][0]["gates"] = []
    found = tally(read(value), 5, 0)
    assert found.gated(0) == (0,)
    assert (found.seen[0, 0], found.opened[0, 0], found.chosen[0, 0]) == (5, 5, 5)
    assert found.gated(1) == ()


def test_plays_of_a_costly_world_are_fewer() -> None:
    engine = Engine(read(lighthouse()))
    assert tally(engine, 50, 0, most=engine.cost * 20 * 7).runs == 7
    assert tally(engine, 50, 0, most=1).runs == 1
    assert engine.affordable(50, 1, engine.cost * 20 * 7) == 7  # short plays are not free: each is counted
