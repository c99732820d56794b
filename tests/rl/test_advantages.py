"""Group advantages, by hand."""

import math
from collections.abc import Sequence
from typing import get_args

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from lit_narrative.rl.advantages import (
    EPS,
    Aggregation,
    Scale,
    group_advantages,
    nanstd,
    score_advantages,
    weighted_sum,
)

NAN = math.nan


def close(found: torch.Tensor, expected: Sequence[float], tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32), atol=tolerance, rtol=0)


def test_binary_rewards_by_group() -> None:
    """Mean 1/2, unbiased deviation 0.57735; the second group is all alike."""
    totals = torch.tensor([1.0, 0, 0, 1, 1, 1, 1, 1])
    advantage = 0.5 / (math.sqrt(1 / 3) + EPS)
    assert advantage == pytest.approx(0.8659, abs=1e-4)
    close(group_advantages(totals, 4), [advantage, -advantage, -advantage, advantage, 0, 0, 0, 0])


def test_batch_and_no_scaling() -> None:
    totals = torch.tensor([3.0, 1, 0, 4])
    close(group_advantages(totals, 2, "none"), [1, -1, -2, 2])
    deviation = math.sqrt(10 / 3) + EPS
    close(group_advantages(totals, 2, "batch"), [1 / deviation, -1 / deviation, -2 / deviation, 2 / deviation])


def test_what_was_not_scored_counts_for_nothing() -> None:
    totals = torch.tensor([2.0, NAN, 4, 0, NAN, 5])
    close(group_advantages(totals, 3, "none"), [-1, 0, 1, -2.5, 0, 2.5])
    scale = math.sqrt(2) + EPS
    close(group_advantages(totals, 3, "group")[:3], [-1 / scale, 0, 1 / scale])


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_a_single_scored_completion_has_no_rivals(scale: Scale) -> None:
    close(group_advantages(torch.tensor([NAN, 3.0, NAN, 1, 2, 3]), 3, scale)[:3], [0, 0, 0])
    close(group_advantages(torch.full((4,), NAN), 2, scale), [0, 0, 0, 0])


def test_groups_must_be_whole() -> None:
    with pytest.raises(ValueError, match="5 rewards are not a whole number of groups of 2"):
        group_advantages(torch.zeros(5), 2)


Groups = st.integers(2, 6).flatmap(
    lambda size: st.tuples(
        st.just(size),
        st.lists(st.lists(st.floats(-5, 5, width=32), min_size=size, max_size=size), min_size=1, max_size=4),
    )
)


@given(Groups, st.sampled_from(["group", "batch", "none"]))
@example((3, [[2.893641948699951] * 3]), "group")  # whose float32 mean is another number
def test_each_group_is_centred_and_keeps_its_order(sizes: tuple[int, list[list[float]]], scale: Scale) -> None:
    size, rows = sizes
    totals = torch.tensor(rows).flatten()
    advantages = group_advantages(totals, size, scale).view(-1, size)
    assert advantages.isfinite().all()
    torch.testing.assert_close(advantages.mean(1), torch.zeros(len(rows)), atol=1e-3, rtol=0)
    for row, found in zip(torch.tensor(rows), advantages, strict=True):
        order = row.argsort(stable=True)
        assert (found[order].diff() >= -1e-4).all()


def test_weighted_sum() -> None:
    rewards = torch.tensor([[1.0, 2], [NAN, 2], [3, NAN], [NAN, NAN]])
    close(weighted_sum(rewards, torch.tensor([0.5, 0.25]))[:3], [1, 0.5, 1.5])
    assert weighted_sum(rewards, torch.tensor([0.5, 0.25]))[3].isnan()


def test_deviation() -> None:
    values = torch.tensor([[1.0, 3, NAN], [5, NAN, NAN], [2, 2, 2]])
    found = nanstd(values)
    close(found[[0, 2], 0], [math.sqrt(2), 0])
    assert found[1].isnan()


# --- leave-one-out, several rewards -----------------------------------------------------------------------------------


@given(Groups)
def test_leave_one_out_is_the_mean_of_the_others(sizes: tuple[int, list[list[float]]]) -> None:
    size, rows = sizes
    totals = torch.tensor(rows, dtype=torch.float64)
    others = (totals.sum(1, keepdim=True) - totals) / (size - 1)
    found = group_advantages(totals.flatten(), size, "none", "rloo")
    torch.testing.assert_close(found, (totals - others).flatten())


def test_leave_one_out_counts_only_who_was_scored() -> None:
    close(group_advantages(torch.tensor([2.0, NAN, 4, 0, NAN, NAN]), 3, "none", "rloo"), [-2, 0, 2, 0, 0, 0])


def test_leave_one_out_with_rewards_of_the_group() -> None:
    rewards, weights = torch.tensor([[3.0], [1], [0], [4]]), torch.ones(1)
    totals, found = score_advantages(rewards, weights, 2, estimator="rloo", scale="none")
    close(totals, [3, 1, 0, 4])
    close(found, [2, -2, -4, 4])


def test_normalised_rewards_count_as_weighted_whatever_their_spread() -> None:
    """One reward a thousand times the other: summed it decides alone, normalised both speak."""
    rewards = torch.tensor([[1000.0, 0], [0, 1], [1000, 1], [0, 0]])
    weights = torch.ones(2)
    _, summed = score_advantages(rewards, weights, 4)
    _, normalised = score_advantages(rewards, weights, 4, aggregation="normalize_then_sum")
    close(summed, [0.865, -0.865, 0.867, -0.867], 1e-2)
    close(normalised, [0, 0, 1.2247, -1.2247], 1e-3)


def test_normalised_rewards_do_not_read_the_scale() -> None:
    rewards, weights = torch.rand(8, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0.6, 0.3, 0.1])
    found = [
        score_advantages(rewards, weights, 4, scale=scale, aggregation="normalize_then_sum")[1]
        for scale in get_args(Scale)
    ]
    assert all(advantages.equal(found[0]) for advantages in found)


@pytest.mark.parametrize("aggregation", get_args(Aggregation))
def test_what_nothing_scored_has_no_advantage(aggregation: Aggregation) -> None:
    rewards = torch.tensor([[1.0, NAN], [NAN, NAN], [2, 5], [0.5, 1]])
    totals, advantages = score_advantages(rewards, torch.ones(2), 4, aggregation=aggregation)
    assert totals.isnan().tolist() == [False, True, False, False]
    assert advantages[1] == 0
    assert (advantages[[0, 2, 3]] != 0).all()


def test_leave_one_out_would_be_divided_out_again() -> None:
    with pytest.raises(ValueError, match="rloo does nothing beside normalize_then_sum"):
        score_advantages(torch.zeros(4, 1), torch.ones(1), 2, estimator="rloo", aggregation="normalize_then_sum")
