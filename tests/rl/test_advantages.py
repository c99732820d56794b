"""Group advantages, by hand."""

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lit_narrative.rl.advantages import EPS, Scale, group_advantages, nanstd, weighted_sum

NAN = math.nan


def close(found: torch.Tensor, expected: Sequence[float]) -> None:
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32), atol=1e-5, rtol=0)


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
