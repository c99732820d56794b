"""A world that the policy plays: what it is told, and what it earns."""

import json

import pytest
import torch

from lit_narrative.datamodules.storyworld import StoryworldData
from lit_narrative.errors import UserError
from lit_narrative.tasks.storyworld.simulator.playing import (
    PlayEnvironment,
    PlayReward,
    PlaySettings,
    play,
    play_prompt,
)
from lit_narrative.views import Rollout, Turn
from tests.tasks.storyworld.lighthouse import encounter, lighthouse, make

WORLD = json.dumps(lighthouse())
SETTINGS = PlaySettings(values={"dawn": 2.0}, invalid=-0.5)


def rollout(*answers: str) -> Rollout:
    none = torch.zeros(0, dtype=torch.long)
    turns = tuple(Turn(answer, "") for answer in answers[:-1])
    return Rollout(none, none, torch.zeros(0), True, answers[-1], columns={"world": WORLD}, turns=turns)


def test_a_play_is_told_turn_by_turn_and_ends() -> None:
    prompt = play_prompt(WORLD, {"index": 3}, SETTINGS)
    assert prompt is not None and prompt.columns == {"index": 3, "world": WORLD}
    assert prompt.text == "This is the storm.\n1. Choice tend\n2. Choice sleep\n> "
    environment = PlayEnvironment(SETTINGS)
    ways = {
        ("sleep",): "\nThis is the boat.\n1. Choice signal\n2. Choice wait\n> ",
        ("9",): "\nThat is no open option. Answer with the number of one.\n> ",
        ("2", "2"): "\nThis is the cellar.\n2. Choice leave\n> ",
    }
    assert environment([rollout(*way) for way in ways]) == list(ways.values())
    assert environment([rollout(*["1"] * 9)]) == [None]


def test_it_earns_what_its_answers_are_worth() -> None:
    found = [play(WORLD, path, SETTINGS) for path in (["1"] * 9, ["9", *["1"] * 9], ["\ud800"], [])]
    assert found[0].ended and found[0].reward in (1.0, 2.0) and found[0].valid == 1
    assert found[1].reward == found[0].reward - 0.5
    assert (found[2].reward, found[2].over, found[2].valid) == (-0.5, False, 0)
    assert not found[3].over
    assert PlayReward(SETTINGS)([rollout(*["1"] * 9), rollout("9")]) == [found[0].reward, -0.5]
    other = Rollout(*[torch.zeros(0, dtype=torch.long)] * 2, torch.zeros(0), True, "1")
    assert PlayReward(SETTINGS)([other]) == [None]


def test_the_task_has_prompts_of_plays_and_says_what_is_missing() -> None:
    data = StoryworldData(train_size=4, play=PlaySettings())
    prompts = list(data.prompts("train"))
    assert [prompt.columns["index"] for prompt in prompts] == [0, 1, 2, 3]
    assert all(str(prompt.text).endswith("\n> ") for prompt in prompts)
    ended = [play(prompt.columns["world"], ["1"] * 20, PlaySettings()) for prompt in prompts]
    verdicts = data.verify([
        Rollout(*[torch.zeros(0, dtype=torch.long)] * 2, torch.zeros(0), True, "1", columns=prompt.columns,
                turns=(Turn("1", ""),) * 19) for prompt in prompts
    ])  # fmt: skip
    assert [verdict.total for verdict in verdicts] == [float(one.ended) for one in ended]
    assert isinstance(data.environment("play"), PlayEnvironment)
    assert list(data.reward_functions(["play"])) == ["play"]
    for asked in (lambda task: task.environment("play"), lambda task: task.reward_functions(["play"])):
        with pytest.raises(UserError, match=r"where data\.play is given"):
            asked(StoryworldData())
    assert play_prompt("{}", {}, SETTINGS) is None
    assert play_prompt(json.dumps(make(encounter("a"))), {}, SETTINGS) is None
