"""The graph of a world, and which gates make a difference in it."""

from lit_narrative.tasks.storyworld.simulator.gates import gated_options, live_gates
from lit_narrative.tasks.storyworld.simulator.graph import can_end, is_terminal, leads_on, only_loops, reachable
from lit_narrative.tasks.storyworld.simulator.plan import make_plan
from lit_narrative.tasks.storyworld.world import World
from tests.tasks.storyworld.lighthouse import encounter, lighthouse, make, option, read


def test_reachable_follows_options_whatever_their_gates() -> None:
    world = make(
        encounter("a", option("x", "c", gates=[("logs", ">", 9)]), option("y", "nowhere")),
        encounter("b", option("x", "a")),
        encounter("c", option("x", "a")),
    )
    assert reachable(make_plan(read(world))) == {0, 2}
    assert reachable(make_plan(World({}, {}, ()))) == frozenset()


def test_kinds_of_encounters() -> None:
    plan = make_plan(
        read(
            make(
                encounter("bare"),
                encounter("closed", option("x", None), option("y", None)),
                encounter("open", option("x", None), option("y", "bare")),
                encounter("lost", option("x", "nowhere")),
                encounter("mute", {**option("x", None), "reactions": []}),
                encounter("loop", option("x", "loop")),
            )
        )
    )
    positions = range(6)
    assert [is_terminal(plan, i) for i in positions] == [True, True, False, False, False, False]
    assert [can_end(plan, i) for i in positions] == [True, True, True, False, False, False]
    assert [leads_on(plan, i) for i in positions] == [False, True, True, False, False, True]
    assert [only_loops(plan, i) for i in positions] == [False, False, False, False, False, True]


def test_live_gates_of_the_lighthouse() -> None:
    plan = make_plan(read(lighthouse()))
    candidates = gated_options(plan, range(5))
    assert candidates == {(1, 0), (2, 0), (3, 0), (4, 0)}
    assert live_gates(plan, candidates, seed=0) == candidates
    assert live_gates(plan, candidates, seed=0, runs=1, max_steps=1) == set()
    assert live_gates(plan, candidates, seed=0, budget=1) == set()
    assert live_gates(plan, set(), seed=0) == set()


def test_a_gate_on_an_undeclared_variable_is_no_candidate() -> None:
    mixed = option("x", None, gates=[("logs", ">", 0), ("ghost", ">", 0)])
    plan = make_plan(read(make(encounter("a", mixed, option("y", None, gates=[("logs", ">", 0)])))))
    assert gated_options(plan, [0]) == {(0, 1)}
