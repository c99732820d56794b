"""Judgements as rewards."""

import pickle

import pytest
import torch

from lit_narrative.rl.rewards.base import Reward
from lit_narrative.tasks.cards.answers import PARTS, CardReward
from lit_narrative.views import Rollout
from tests.tasks.cards.hands import columns


def rollout(text: str) -> Rollout:
    empty = torch.zeros(0, dtype=torch.long)
    return Rollout(empty, empty, torch.zeros(0), True, text, columns=columns())


@pytest.mark.parametrize(
    ("name", "scores"),
    [
        ("correct", [1, 1, 0, 0]),
        ("format", [1, 1, 1, 0]),
        ("process", [1, 0.5, 0, 0]),
        ("length", [0, -1 / 3, -5 / 6, -0.5]),
    ],
)
def test_each_part(name: str, scores: list[float]) -> None:
    texts = [" 3 -2 -2 2 ; 2", " 3 -2 ; 2", " 7", "a b c d e f g h i"]
    reward = CardReward(name)
    assert isinstance(reward, Reward)
    assert reward([rollout(text) for text in texts]) == pytest.approx(scores)
    assert pickle.loads(pickle.dumps(reward)) == reward


def test_every_part_is_tried() -> None:
    assert set(PARTS) == {"correct", "format", "process", "length"}
