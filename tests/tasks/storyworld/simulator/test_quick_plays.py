"""Quick plays: the same plays as those that are kept, and what they say of gates."""

from dataclasses import replace

import numpy as np
import pytest

from lit_narrative.tasks.storyworld.formats.parse import parse
from lit_narrative.tasks.storyworld.formats.simple import read_world
from lit_narrative.tasks.storyworld.generator import Skew, corpus
from lit_narrative.tasks.storyworld.simulator.engine import Engine
from lit_narrative.tasks.storyworld.simulator.plan import make_plan
from lit_narrative.tasks.storyworld.simulator.play import plays
from lit_narrative.tasks.storyworld.simulator.quick_plays import live_gates, quick_engine_plays, quick_plays
from lit_narrative.tasks.storyworld.world import World
from tests.tasks.storyworld.lighthouse import encounter, lighthouse, make, option, read

LOOPING = Skew(second_ending=0.5, gates=0.6, structures=(0.1, 0.1, 0.1, 0.7), dangling=0.3)


def corpus_worlds(n: int) -> list[World]:
    worlds = [read_world(parse(row.completion).value)[0] for row in corpus(n, 3, LOOPING)]
    return [world for world in worlds if world is not None]


@pytest.mark.parametrize("max_steps", [1, 3, 20])
def test_they_are_the_plays_that_play_makes(max_steps: int) -> None:
    for world in [*corpus_worlds(40), read(lighthouse()), World({}, {}, ())]:
        plan = make_plan(world)
        kept = list(plays(plan, 12, np.random.default_rng(5), max_steps=max_steps))
        quick = quick_plays(plan, 5, 12, max_steps)
        assert (quick.runs, quick.whole) == (12, True)
        assert sorted(quick.outcomes.elements()) == sorted(play.outcome for play in kept)
        assert {world.encounters[i].id for i in quick.endings} == {play.ending for play in kept} - {None}
        steps = [step for play in kept for step in play.steps]
        met = {
            (s.index, j, is_open) for s in steps for j, is_open in enumerate(s.open) if plan.scenes[s.index][j].tests
        }
        assert {(i, j, True) for i, j in quick.opened} | {(i, j, False) for i, j in quick.shut} == met


def test_live_gates_were_met_both_open_and_closed() -> None:
    plan = make_plan(read(lighthouse()))
    live = live_gates(plan, quick_plays(plan, 0))
    assert live == {(2, 0), (4, 0)}
    assert live_gates(plan, quick_plays(plan, 0, runs=1)) == set()
    mixed = option("x", None, gates=[("logs", ">", 2), ("ghost", "==", 0)])
    hall = encounter("hall", mixed, option("y", None, gates=[("logs", ">", 2)]))
    hut = encounter("hut", option("burn", "hall", {"logs": -3}), option("wait", "hall"))
    plan = make_plan(read(make(hut, hall)))
    assert live_gates(plan, quick_plays(plan, 0)) == {(1, 1)}  # a gate on an undeclared variable is none


def test_a_world_of_thousands_of_parts_is_played_less_often() -> None:
    wide = make_plan(
        read(make(encounter("a", *[option(f"o{i}", None, gates=[("logs", ">", i)]) for i in range(5000)])))
    )
    played = quick_plays(wide, 0)
    assert not played.whole
    assert played.runs < 32


@pytest.mark.parametrize("max_steps", [1, 3, 20])
def test_an_engine_makes_the_same_quick_plays(max_steps: int) -> None:
    loop = read(make(encounter("a", option("x", "a")), encounter("b")))
    for world in [*corpus_worlds(40), read(lighthouse()), loop, World({}, {}, ())]:
        quick, slow = (
            quick_plays(make_plan(world), 5, 12, max_steps),
            quick_engine_plays(Engine(world), 5, 12, max_steps),
        )
        # A plan knows which variables no gate reads, and so finds moments equal that the engine takes for different.
        assert quick == (slow if max_steps == 20 else replace(slow, endless=quick.endless))
