"""Rewards on tokens alone."""

import pytest
import torch

from lit_narrative.errors import UserError
from lit_narrative.rl.rewards.base import Reward
from lit_narrative.rl.rewards.penalties import Repetition, SoftOverlong, repetition
from lit_narrative.views import Rollout


def rollout(*ids: int) -> Rollout:
    return Rollout(torch.zeros(1, dtype=torch.long), torch.tensor(ids).long(), torch.zeros(len(ids)), True, "")


def test_too_long() -> None:
    reward = SoftOverlong(10, 4)
    found = [reward.penalty(length) for length in (0, 6, 7, 9, 10, 11)]
    assert found == pytest.approx([0, 0, -0.25, -0.75, -1, -1])
    assert reward([rollout(*range(8)), rollout()]) == pytest.approx([-0.5, 0])


def test_without_a_slope() -> None:
    assert [SoftOverlong(10, 0).penalty(length) for length in (10, 11)] == [0, -1]


def test_repeated() -> None:
    assert Repetition(2)([rollout(1, 2, 3), rollout(5, 5, 5, 5, 5), rollout(1), rollout()]) == pytest.approx(
        [0, -0.75, 0, 0]
    )
    assert Repetition(2, max_penalty=-2.0).penalty(torch.tensor([1, 2, 1, 2])) == pytest.approx(-2 / 3)


def test_they_are_rewards() -> None:
    assert isinstance(repetition, Reward)
    assert isinstance(SoftOverlong(10, 4), Reward)
    assert (repetition.name, SoftOverlong(10, 4).name) == ("repetition", "soft_overlong")


def test_refused() -> None:
    with pytest.raises(UserError, match=r"soft_punish_cache=11 must be in 0\.\.max_completion_length=10"):
        SoftOverlong(10, 11)
    with pytest.raises(UserError, match="ngram_size=0 must be at least 1"):
        Repetition(0)
    with pytest.raises(UserError, match=r"max_penalty=0\.5 must not be positive"):
        Repetition(max_penalty=0.5)
