"""The graph of a world: what can be reached, and from where an ending can."""

from lit_narrative.tasks.storyworld.simulator.graph import can_end, is_terminal, reachable, viable
from lit_narrative.tasks.storyworld.simulator.plan import make_plan
from lit_narrative.tasks.storyworld.world import World
from tests.tasks.storyworld.lighthouse import encounter, make, option, read


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
