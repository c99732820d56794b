"""Measures of verse as rewards, on rollouts made by hand."""

import pytest
import torch

from lit_narrative.errors import UserError
from lit_narrative.rl.rewards.base import Reward
from lit_narrative.tasks.poetry.rewards import PARTS, TopicShare, VerseReward, other_words, written_lines
from lit_narrative.tasks.poetry.topics import TOPICS, Topic
from lit_narrative.views import Rollout

OCEAN = TOPICS["ocean"]
EMPTY = torch.zeros(0, dtype=torch.long)


def rollout(text: str, finished: bool = True, prompt: str = "the day stays again\n") -> Rollout:
    columns = {"topic": "ocean", "bag": list(OCEAN.bag), "held_out": list(OCEAN.held_out), "index": 0}
    return Rollout(EMPTY, EMPTY, torch.zeros(0), finished, text, prompt, columns)


def test_the_bag_is_rewarded_and_held_out_words_are_not() -> None:
    texts = ["the tidal wave sinks again", "the salty sail swims again", "the icy snow melts again", ""]
    result = TopicShare()([rollout(text) for text in texts])
    assert "salty" not in OCEAN.bag
    assert result == [pytest.approx(3 / 5), 0, 0, 0]


def test_a_limit_is_all_that_can_be_had() -> None:
    stuffed, enough, little = rollout("wave wave wave"), rollout("the wave again wave"), rollout("the wave waits again")
    assert TopicShare(limit=0.5)([stuffed, enough, little]) == [1, 1, 0.5]
    for wrong in (0.0, 1.5, float("nan")):
        with pytest.raises(UserError, match="limit="):
            TopicShare(limit=wrong)


def test_parts() -> None:
    text = "the salty wave sinks again\nwave the wave the wave\nthe old"
    result = {name: VerseReward(name, TOPICS)([rollout(text, False), rollout(text), rollout("")]) for name in PARTS}
    assert result["grammatical"] == [pytest.approx(1 / 2), pytest.approx(1 / 3), 0]
    # Of 11 pairs of words, (wave, the) comes three times and (the, wave) twice.
    assert result["repetition"] == [pytest.approx(-3 / 11), pytest.approx(-3 / 11), 0]
    # The prompt's line counts; five are the fewest that a poem has.
    assert result["complete"] == [pytest.approx(3 / 5), pytest.approx(4 / 5), pytest.approx(1 / 5)]
    assert VerseReward("complete", TOPICS)([rollout("a\n" * 9)]) == [1]
    assert result["off_topic"] == [0, 0, 0]
    assert VerseReward("off_topic", TOPICS)([rollout("the snow and the tide")]) == [pytest.approx(-1 / 5)]
    assert all(isinstance(VerseReward(name, TOPICS), Reward) for name in PARTS)


def test_a_line_that_the_prompt_begins_counts_with_it() -> None:
    assert written_lines(rollout(" wave sinks again\nour", False, "the salty")) == ["the salty wave sinks again"]
    assert written_lines(rollout("our song", True, "first\nsecond\n")) == ["our song"]


def test_words_that_topics_share_are_no_words_of_others() -> None:
    topics = {"a": Topic("a", ("x", "y")), "b": Topic("b", ("y",), ("z",))}
    assert other_words(topics, "a") == {"z"}
    assert other_words(topics, "unknown") == {"x", "y", "z"}
