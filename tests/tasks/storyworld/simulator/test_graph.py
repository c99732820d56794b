"""The graph of a world: what can be reached, and from where an ending can."""

from lit_narrative.tasks.storyworld.simulator.graph import (
    can_end,
    encounters_only,
    is_terminal,
    lint_warnings,
    outline,
    reachable,
    viable,
)
from lit_narrative.tasks.storyworld.simulator.plan import IMPLICIT, make_plan
from lit_narrative.tasks.storyworld.world import World
from tests.tasks.storyworld.lighthouse import beacon, encounter, lighthouse, make, option, read


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
            )
        )
    )
    positions = range(5)
    assert [is_terminal(plan, i) for i in positions] == [True, True, False, False, False]
    assert [can_end(plan, i) for i in positions] == [True, True, True, False, False]


def test_viable_encounters_are_those_from_which_an_ending_can_be_reached() -> None:
    world = make(
        encounter("a", option("x", "b"), option("y", "loop"), option("z", "lost")),
        encounter("b", option("x", "a"), option("y", "end")),
        encounter("loop", option("x", "round")),
        encounter("round", option("x", "loop")),
        encounter("lost", option("x", "nowhere")),
        encounter("end"),
        encounter("attic", option("x", "end")),
    )
    plan = make_plan(read(world))
    assert viable(plan, reachable(plan)) == {0, 1, 5}
    back = make_plan(read(make(encounter("a", option("x", "c")), encounter("b"), encounter("c", option("x", "b")))))
    assert viable(back, reachable(back)) == {0, 1, 2}


def test_the_outline_of_a_world_with_an_engine_has_every_way_and_selection() -> None:
    world = read(beacon())
    plan = outline(world)
    # Of "tend" one reaction leaves it to selection, which stands behind the two encounters; the other leads to "dawn".
    assert [choice.target for choice in plan.scenes[0]] == [2, 1]
    assert [choice.target for choice in plan.scenes[2]] == [0, 1, IMPLICIT]
    positions = reachable(plan)
    assert (positions, encounters_only(plan, positions)) == ({0, 1, 2}, {0, 1})
    assert viable(plan, positions) == positions
    assert [is_terminal(plan, i) for i in (0, 1)] == [False, True]
    assert outline(read(lighthouse())) == make_plan(read(lighthouse()))
    late = {**lighthouse(), "start": "cellar"}
    assert encounters_only(outline(read(late)), reachable(outline(read(late)))) == {2, 3, 4}


def test_variables_that_only_scripts_read_are_in_use() -> None:
    value = beacon()
    for name in ("loved", "trusted", "spare"):
        value["initial_state"][name] = 0
    value["encounters"][1]["desirability"] = "loved"
    value["encounters"][0]["options"][0]["reactions"][1]["desirability"] = ["neg", "trusted"]
    unused = [fault.path[-1] for fault in lint_warnings(outline(read(value))) if fault.path[0] == "initial_state"]
    assert unused == ["spare"]
