"""Advantages: how much better a completion is than others of its group or batch.

Notation: R completions of all processes, G completions a prompt (a group), k rewards.
"""

from typing import Literal

import torch

Scale = Literal["group", "batch", "none"]
Aggregation = Literal["sum_then_normalize", "normalize_then_sum"]
Estimator = Literal["group", "rloo"]
EPS = 1e-4
"""Added to deviations, as TRL does; with rewards in 0..1 it leaves the advantages of nearly equal rewards small."""


def score_advantages(
    rewards: torch.Tensor,
    weights: torch.Tensor,
    group_size: int,
    *,
    estimator: Estimator = "group",
    scale: Scale = "group",
    aggregation: Aggregation = "sum_then_normalize",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Total reward and advantage of each completion.

    ``sum_then_normalize``: A = (total - baseline of the group) / (deviation + 1e-4) (GRPO, Shao et al. 2024, eq. 3).
    ``normalize_then_sum``: each reward is normalised within its group, then their weighted sum over the whole batch
    (GDPO, 2026), so that rewards of unequal spread count as weighted; ``scale`` is not read.

    Args:
        rewards: (R, k), groups one after another; NaN where a reward could not score the completion.
        weights: (k,).
        group_size: G, at least 2; must divide R.
        estimator: the baseline: the ``group``'s mean, or the mean of the others (``rloo``, Ahmadian et al. 2024).
        scale: divide by the deviation of the group, of the batch, or not (Dr. GRPO, Liu et al. 2025).
        aggregation: how several rewards become one advantage.

    Returns:
        (R,) weighted sums of the raw rewards, NaN where none could score; (R,) advantages, 0 there.

    Raises:
        ValueError: R is not a multiple of G, or leave-one-out beside ``normalize_then_sum``, which would divide its
            factor G / (G - 1) out again.
    """
    if aggregation == "normalize_then_sum" and estimator != "group":
        raise ValueError(f"the estimator {estimator} does nothing beside normalize_then_sum")
    totals = weighted_sum(rewards, weights)
    if aggregation == "sum_then_normalize":
        return totals, group_advantages(totals, group_size, scale, estimator)
    standard = torch.stack([_normalised(column, group_size) for column in rewards.T], dim=1)
    # (1, R), so that the batch's deviation is that of one row.
    summed = weighted_sum(standard, weights).masked_fill(totals.isnan(), torch.nan)[None]
    advantages = (summed - summed.nanmean()) / (nanstd(summed) + EPS)
    return totals, _finite(advantages)


def weighted_sum(rewards: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Total reward of each completion.

    Args:
        rewards: (R, k); NaN where a reward could not score the completion.
        weights: (k,).

    Returns:
        (R,): weighted sum over the rewards that are there; NaN where none is.
    """
    # `nansum` of nothing is 0, which would be a score like any other; hence the fill.
    total = (rewards * weights).nansum(dim=1)
    return total.masked_fill(rewards.isnan().all(dim=1), torch.nan)


def group_advantages(
    totals: torch.Tensor, group_size: int, scale: Scale = "group", estimator: Estimator = "group"
) -> torch.Tensor:
    """Advantages relative to the group.

    A = total - baseline, divided by (standard deviation + 1e-4) of the group or of the whole batch. The deviation is
    the unbiased one. Leave-one-out: total - mean of the n - 1 others = n / (n - 1) (total - mean). NaN totals are left
    out of all statistics and get advantage 0, as does a group with fewer than two scored completions.

    Args:
        totals: (R,), groups one after another.
        group_size: G; must divide R.
        scale: the deviation to divide by.
        estimator: the baseline to take off.

    Returns:
        (R,), finite.

    Raises:
        ValueError: if R is not a multiple of G.
    """
    # Doubles: a float32 mean of equal totals may be off by a rounding, which the tiny deviation below would blow up.
    groups = _grouped(totals.double(), group_size)
    scored = (~groups.isnan()).sum(1, keepdim=True)
    # One completion alone is its own mean: 0 here, where leave-one-out would divide by 0 below.
    centred = (groups - groups.nanmean(dim=1, keepdim=True)).where(scored > 1, 0.0)
    if estimator == "rloo":
        centred = centred * scored / (scored - 1)
    if scale == "group":
        centred = centred / (nanstd(groups) + EPS)
    elif scale == "batch":
        # The deviation alone is the batch's; the mean taken off above is still the group's.
        centred = centred / (nanstd(totals[None].double()) + EPS)
    return _finite(centred).to(totals.dtype)


def nanstd(values: torch.Tensor) -> torch.Tensor:
    """Unbiased standard deviation over the last dimension, NaN left out; keeps the dimension. NaN below two values."""
    count = (~values.isnan()).sum(-1, keepdim=True)
    squares = (values - values.nanmean(-1, keepdim=True)).square().nansum(-1, keepdim=True)
    # One value would be 0 / 0, and none -0, a deviation of nothing that reads as "all equal".
    return (squares / (count - 1)).where(count > 1, torch.nan).sqrt()


def _grouped(values: torch.Tensor, group_size: int) -> torch.Tensor:
    if len(values) % group_size:
        raise ValueError(f"{len(values)} rewards are not a whole number of groups of {group_size}")
    return values.view(-1, group_size)


def _normalised(rewards: torch.Tensor, group_size: int) -> torch.Tensor:
    """One reward, (R,), centred and scaled within its groups; NaN stays."""
    groups = _grouped(rewards, group_size)
    return ((groups - groups.nanmean(1, keepdim=True)) / (nanstd(groups) + EPS)).flatten()


def _finite(advantages: torch.Tensor) -> torch.Tensor:
    # NaN: not scored. Infinite: rewards so far apart that their squares overflow; such a row teaches nothing either.
    return advantages.flatten().nan_to_num(0.0, posinf=0.0, neginf=0.0)
