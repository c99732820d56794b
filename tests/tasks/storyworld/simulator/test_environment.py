"""A world as an environment of text: observations, actions of every kind, and rewards."""

import pytest

from lit_narrative.errors import UserError
from lit_narrative.tasks.storyworld.simulator.environment import INVALID, WorldEnv
from lit_narrative.tasks.storyworld.simulator.play import all_paths
from lit_narrative.tasks.storyworld.world import World
from tests.tasks.storyworld.lighthouse import encounter, lighthouse, make, option, read


def test_an_episode_is_a_play_and_every_path_can_be_played() -> None:
    world = read(lighthouse())
    env = WorldEnv(world, values={"dawn": 2.0, "wreck": -1.0})
    for path in all_paths(world):
        env.reset()
        for step in path.steps:
            assert step.choice is not None
            _, reward, over, cut, info = env.step(f" {step.choice + 1}. whatever follows")
        assert (over, cut, info["outcome"], info["state"]) == (True, False, "ending", path.state)
        assert reward == (2.0 if path.ending == "dawn" else -1.0)
        assert tuple(env.steps) == path.steps


def test_an_observation_is_the_story_with_its_open_options() -> None:
    env = WorldEnv(read(lighthouse()))
    text, info = env.reset(seed=5)
    assert text == "This is the storm.\n1. Choice tend\n2. Choice sleep\n> "
    assert (info["encounter"], info["open"], info["outcome"]) == ("storm", (0, 1), None)
    text, reward, *_ = env.step("sleep")
    assert text.endswith("> sleep\nThis is the boat.\n1. Choice signal\n2. Choice wait\n> ")
    assert reward == 0
    text, *_, info = env.step("Choice wait")
    assert text.endswith("This is the cellar.\n2. Choice leave\n> ")  # the first option is closed
    assert info["open"] == (1,)


@pytest.mark.parametrize("action", ["", "1", "dig", "²", "99999999999999999999", "-1", "\ud800", "x" * 10**6])
def test_an_action_that_names_no_open_option_costs_a_step_and_changes_nothing(action: str) -> None:
    env = WorldEnv(read(lighthouse()), invalid=-0.5, max_steps=4)
    env.reset()
    env.step("2")
    env.step("2")
    before = env.steps[-1]
    text, reward, over, cut, info = env.step(action)
    assert (reward, over, cut, info["valid"]) == (-0.5, False, False, False)
    assert text.endswith(INVALID)
    assert len(text) < 500
    assert env.steps[-1] == before
    assert env.step(action)[2:4] == (False, True)
    with pytest.raises(RuntimeError, match="reset"):
        env.step("2")


def test_dead_ends_and_endings_earn_what_they_are_worth() -> None:
    stuck = option("go", "b")
    world = read(make(encounter("a", stuck), encounter("b", option("x", None, gates=[("logs", ">", 9)]))))
    env = WorldEnv(world, dead_end=-2)
    env.reset()
    assert env.step("go")[1:3] == (-2, True)
    assert env.outcome == "stuck"
    ends = WorldEnv(read(make(encounter("a", option("go", "b")), encounter("b"))))
    ends.reset()
    assert ends.step("1")[1] == 1.0
    assert WorldEnv(World({}, {}, ())).reset()[1]["outcome"] == "dangling"
    with pytest.raises(UserError, match="max_steps"):
        WorldEnv(world, max_steps=0)
