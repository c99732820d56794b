"""Plays: gates, effects, bounds, endings and dead ends, on worlds small enough to play by hand."""

import numpy as np
import pytest

from lit_narrative.tasks.storyworld.simulator.plan import make_plan
from lit_narrative.tasks.storyworld.simulator.play import Play, all_paths, play, plays
from lit_narrative.tasks.storyworld.world import World
from tests.tasks.storyworld.lighthouse import encounter, lighthouse, make, option, read


def once(world: World, seed: int = 0, max_steps: int = 20) -> Play:
    return play(world, np.random.default_rng(seed), max_steps=max_steps)


def test_a_step_holds_the_moment_before_its_choice() -> None:
    played = once(read(make(encounter("hut", option("burn", "night", {"logs": -1})), encounter("night"))))
    first, last = played.steps
    assert (first.encounter, first.index, first.turn, first.visited) == ("hut", 0, 0, 1)
    assert (first.options, first.open, first.choice) == (("burn",), (True,), 0)
    assert first.state == {"Ada_calm": 0, "logs": 3}
    assert (last.encounter, last.index, last.turn, last.visited) == ("night", 1, 1, 2)
    assert (last.options, last.open, last.choice) == ((), (), None)
    assert last.state == played.state == {"Ada_calm": 0, "logs": 2}
    assert (played.outcome, played.ending, played.choices) == ("ending", "night", ("burn",))


@pytest.mark.parametrize(
    ("comparison", "threshold", "open_"),
    [
        (">=", 3, True),
        (">=", 3.1, False),
        ("<=", 3, True),
        ("<=", 2.9, False),
        (">", 2.9, True),
        (">", 3, False),
        ("<", 3.1, True),
        ("<", 3, False),
        ("==", 3, True),
        ("==", 3.1, False),
        ("!=", 3.1, True),
        ("!=", 3, False),
    ],
)
def test_each_comparison(comparison: str, threshold: float, open_: bool) -> None:
    world = read(make(encounter("hut", option("go", None, gates=[("logs", comparison, threshold)]))))
    assert once(world).steps[0].open == (open_,)
    assert once(world).outcome == ("ending" if open_ else "stuck")


def test_all_gates_of_an_option_must_hold_and_an_undeclared_variable_reads_zero() -> None:
    both = option("a", None, gates=[("logs", ">", 1), ("logs", "<", 2)])
    ghost = option("b", None, gates=[("ghost", "==", 0)])
    assert once(read(make(encounter("hut", both, ghost)))).steps[0].open == (False, True)


def test_gates_compare_sums_of_decimals_as_they_are_written() -> None:
    world = read(
        make(
            encounter("a", option("x", "b", {"Ada_calm": 0.3})),
            encounter("b", option("x", "c", {"Ada_calm": -0.1})),
            encounter("c", option("yes", None, gates=[("Ada_calm", ">=", 0.2)])),
        )
    )
    assert 0.3 - 0.1 < 0.2
    assert once(world).outcome == "ending"
    assert once(world).state["Ada_calm"] == 0.2


def test_effects_apply_in_order_and_are_clamped_one_by_one() -> None:
    burn = option("burn", None, {"logs": -9})
    burn["reactions"][0]["after_effects"].append({"variable": "logs", "change": 1})
    burn["reactions"][0]["after_effects"].append({"variable": "ghost", "change": 1})
    assert once(read(make(encounter("hut", burn)))).state == {"Ada_calm": 0, "logs": 1}


def test_reactions_are_walked_up_to_the_first_that_leads() -> None:
    go = option("go", "b", {"logs": 1})
    before = {"after_effects": [{"variable": "logs", "change": -1}]}
    after = {"after_effects": [{"variable": "logs", "change": -1}], "next_encounter": None}
    go["reactions"] = [before, *go["reactions"], after]
    played = once(read(make(encounter("a", go), encounter("b"))))
    assert played.ending == "b"
    assert played.state["logs"] == 3


@pytest.mark.parametrize(
    ("encounters", "outcome"),
    [
        ([], "dangling"),
        ([encounter("a")], "ending"),
        ([encounter("a", option("x", None))], "ending"),
        ([encounter("a", option("x", "nowhere"))], "dangling"),
        ([encounter("a", option("x", "a"))], "timeout"),
        ([encounter("a", {**option("x", None), "reactions": []})], "implicit"),
        ([encounter("a", {**option("x", None), "reactions": [{"after_effects": []}]})], "implicit"),
        ([encounter("a", option("x", None, gates=[("logs", ">", 3)]))], "stuck"),
    ],
)
def test_each_way_to_end(encounters: list[dict], outcome: str) -> None:
    value = make(*encounters) if encounters else {**make(encounter("a")), "encounters": [{}]}
    world = read(value) if encounters else World({}, {}, ())
    played = once(world, max_steps=7)
    assert played.outcome == outcome
    assert played.ending == ("a" if outcome == "ending" else None)
    assert len(played.steps) == (0 if not encounters else 7 if outcome == "timeout" else 1)
    assert [path.outcome for path in all_paths(world, max_steps=7)] == [outcome]


def test_the_first_of_two_encounters_with_one_id_is_played() -> None:
    world = read(make(encounter("a", option("x", "b")), encounter("b"), encounter("b", option("y", "b"))))
    assert once(world).steps[1].index == 1


def test_a_policy_chooses_among_open_options_only() -> None:
    offered: list[tuple[int, ...]] = []

    def last(rng: object, encounter: object, state: object, open_options: tuple[int, ...]) -> int:
        offered.append(open_options)
        return open_options[-1]

    world = read(lighthouse())
    played = play(world, np.random.default_rng(0), last)
    assert played.choices == ("sleep", "wait", "leave", "flee")
    assert offered == [(0, 1), (0, 1), (1,), (1,)]


def test_plays_are_a_function_of_the_seed() -> None:
    world = read(lighthouse())
    first = list(plays(world, 50, np.random.default_rng(3)))
    assert first == list(plays(make_plan(world), 50, np.random.default_rng(3)))
    assert first != list(plays(world, 50, np.random.default_rng(4)))


def test_random_plays_meet_exactly_the_paths_there_are() -> None:
    world = read(lighthouse())
    paths = all_paths(world)
    assert len(paths) == 7
    assert sum(path.ending == "dawn" for path in paths) == 2
    met = {p.choices: p for p in plays(world, 400, np.random.default_rng(0))}
    assert met == {p.choices: p for p in paths}


def test_the_number_of_paths_is_bounded() -> None:
    loop = read(make(encounter("a", option("x", "a"), option("y", "a"))))
    assert len(all_paths(loop, limit=5)) == 5
    assert len(all_paths(loop, max_steps=3)) == 8
