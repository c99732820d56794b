"""Summaries of scored completions, by hand."""

import math
from typing import Any

import pytest
import torch

from lit_narrative.rl.metrics import rollout_metrics

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
            "completions/mean_terminated_length": 16 / 3,
            "completions/min_terminated_length": 2,
            "completions/max_terminated_length": 8,
            "completions/clipped_ratio": 0.25,
            "rewards/a/mean": 2,
            "rewards/a/std": math.sqrt(2),
        }
    )


def test_completions_without_a_score_are_left_out() -> None:
    found = rollout_metrics({}, torch.tensor([NAN, 1, NAN, NAN]), torch.ones(4), torch.ones(4), 2)
    assert found["reward"] == 1
    assert "reward_std" not in found


@pytest.mark.parametrize("options", [{}, {"scale": "batch"}, {"aggregation": "normalize_then_sum"}], ids=str)
def test_fewer_than_two_scores_have_no_deviation_that_is_zero(options: dict[str, Any]) -> None:
    ones = torch.ones(4)

    def share(*totals: float) -> float:
        scores = torch.tensor(totals)
        return rollout_metrics({"a": scores}, scores, ones, ones, 2, **options)["frac_reward_zero_std"]

    assert share(NAN, NAN, NAN, NAN) == share(NAN, 1, NAN, NAN) == 0
    assert share(NAN, 1, 1, 1) == (1 if options else 0.5)


def test_no_completion_ended_itself() -> None:
    found = rollout_metrics({}, torch.arange(4.0), torch.full((4,), 9.0), torch.zeros(4), 2)
    assert found["completions/clipped_ratio"] == 1
    assert found["completions/mean_terminated_length"] == 0


def test_no_deviation_is_measured_as_the_advantages_were() -> None:
    """Two groups, each all alike: no group deviates, the batch does."""
    rewards = {"a": torch.tensor([1.0, 1, 2, 2]), "b": torch.tensor([0.0, 0, 1, 1])}
    totals, ones = torch.tensor([1.0, 1, 3, 3]), torch.ones(4)

    def share(**options: Any) -> float:
        return rollout_metrics(rewards, totals, ones, ones, 2, **options)["frac_reward_zero_std"]

    assert share() == share(scale="none") == share(aggregation="normalize_then_sum") == 1
    assert share(scale="batch") == 0
    rewards["b"][0] = 5.0
    assert share(aggregation="normalize_then_sum") == 0
