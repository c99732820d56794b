"""Summaries of scored completions, by hand."""

import math

import pytest
import torch

from lit_narrative.modules.rollout_metrics import rollout_metrics

NAN = math.nan


def test_by_hand() -> None:
    totals = torch.tensor([1.0, 3, 2, 2])
    rewards = {"a": torch.tensor([1.0, NAN, 3, NAN]), "b": torch.full((4,), NAN)}
    lengths, finished = torch.tensor([2.0, 4, 6, 8]), torch.tensor([1.0, 0, 1, 1])
    assert rollout_metrics(rewards, totals, lengths, finished, 2) == pytest.approx(
        {
            "reward": 2,
            "reward_std": math.sqrt(2 / 3),
            "frac_reward_zero_std": 0.5,
            "completions/mean_length": 5,
            "completions/min_length": 2,
            "completions/max_length": 8,
            "completions/clipped_ratio": 0.25,
            "rewards/a/mean": 2,
            "rewards/a/std": math.sqrt(2),
        }
    )


def test_completions_without_a_score_are_left_out() -> None:
    found = rollout_metrics({}, torch.tensor([NAN, 1, NAN, NAN]), torch.ones(4), torch.ones(4), 2)
    assert found["reward"] == 1
    assert found["frac_reward_zero_std"] == 1
    assert "reward_std" not in found
