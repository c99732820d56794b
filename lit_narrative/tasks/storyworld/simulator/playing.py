"""Worlds that the policy plays, turn by turn: the environment `play`, its prompts, and the reward of the same name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from lit_narrative.tasks.storyworld.formats.files import read_any
from lit_narrative.tasks.storyworld.simulator.engine import Engine
from lit_narrative.tasks.storyworld.simulator.environment import WorldEnv
from lit_narrative.views import Prompt, Rollout, Verdict


@dataclass(frozen=True)
class PlaySettings:
    """What a play is worth.

    Args:
        values: reward for coming to an ending, by the id of its encounter.
        ending: for one that is not named.
        dead_end: for a play that is stuck, leads to nothing, or ends without a word.
        invalid: for an answer that names no open option.
    """

    values: Mapping[str, float] = field(default_factory=dict)
    ending: float = 1.0
    dead_end: float = 0.0
    invalid: float = 0.0


@dataclass(frozen=True)
class Played:
    """A play as far as it went.

    Attributes:
        told: what the last answer led to; of no answers the beginning.
        reward: of all answers.
        over: whether the play has ended.
        ended: whether it came to an ending.
        valid: share of the answers that named an open option, 1 of none.
    """

    told: str
    reward: float
    over: bool
    ended: bool
    valid: float


def play(world: str, answers: Sequence[str], settings: PlaySettings) -> Played:
    """Play a world by what the policy wrote; answers behind the end of the play are not read.

    Args:
        world: its text, in any format.
        answers: one a turn.
        settings: of the rewards.
    """
    env = WorldEnv(_engine(world), settings.values, settings.ending, settings.dead_end, settings.invalid)
    told, info = env.reset()
    reward, valid, over = 0.0, 0, info["outcome"] is not None
    for number, answer in enumerate(answers, 1):
        if over:
            return Played("", reward, True, info["outcome"] == "ending", valid / (number - 1) if number > 1 else 1.0)
        _, earned, terminated, cut, info = env.step(answer)
        reward, valid, over, told = reward + earned, valid + info["valid"], terminated or cut, info["told"]
    return Played(told, reward, over, info["outcome"] == "ending", valid / len(answers) if answers else 1.0)


@lru_cache(maxsize=256)
def _engine(text: str) -> Engine:
    """The world of a prompt, ready to be played: the same for all completions of it, and all their turns."""
    world = read_any(text).world
    assert world is not None  # prompts are made of worlds that could be read
    return Engine(world)


def play_prompt(world: str, columns: Mapping[str, Any], settings: PlaySettings) -> Prompt | None:
    """The prompt of a world's play: the first encounter with its options; None where there is nothing to choose.

    Args:
        world: its text, in any format.
        columns: of the prompt; the world joins them as ``world``.
        settings: of the rewards.
    """
    if read_any(world).world is None or (begun := play(world, (), settings)).over:
        return None
    return Prompt(begun.told, {**columns, "world": world})


@dataclass(frozen=True)
class PlayEnvironment:
    """Tells what an answer led to, with the options that are open now, until the play is over."""

    settings: PlaySettings

    def __call__(self, rollouts: Sequence[Rollout]) -> list[str | None]:
        """What follows, in order."""
        played = [play(rollout.columns["world"], rollout.texts, self.settings) for rollout in rollouts]
        return [None if one.over else f"\n{one.told}" for one in played]


@dataclass(frozen=True)
class PlayReward:
    """What the play of a rollout was worth; None where its prompt is none of a play."""

    settings: PlaySettings
    name: str = "play"

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float | None]:
        """Rewards, in order."""
        return [
            play(rollout.columns["world"], rollout.texts, self.settings).reward if "world" in rollout.columns else None
            for rollout in rollouts
        ]


def play_verdict(rollout: Rollout, settings: PlaySettings) -> Verdict:
    """What came of a play: 1 for an ending; and the share of its answers that named an open option."""
    played = play(rollout.columns["world"], rollout.texts, settings)
    extra: dict[str, Any] = {"turns": float(len(rollout.texts)), "reward_of_play": played.reward}
    return Verdict(
        float(played.ended), {"ended": float(played.ended), "valid": played.valid}, played.valid == 1, (), extra
    )
