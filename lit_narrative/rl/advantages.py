"""Advantages: how much better a completion is than its rivals.

Notation: R completions of all processes, G completions a prompt (a group), k rewards.
"""

from typing import Literal

import torch

Scale = Literal["group", "batch", "none"]
EPS = 1e-4


def weighted_sum(rewards: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Total reward of each completion.

    Args:
        rewards: (R, k); NaN where a reward could not score the completion.
        weights: (k,).

    Returns:
        (R,): weighted sum over the rewards that are there; NaN where none is.
    """
    total = (rewards * weights).nansum(dim=1)
    return total.masked_fill(rewards.isnan().all(dim=1), torch.nan)


def group_advantages(totals: torch.Tensor, group_size: int, scale: Scale = "group") -> torch.Tensor:
    """Advantages relative to the group (GRPO, Shao et al. 2024, eq. 3; ``none`` is Dr. GRPO, Liu et al. 2025).

    A = total - mean of its group, divided by (standard deviation + 1e-4) of the group or of the whole batch.
    The deviation is the unbiased one. NaN totals are left out of the statistics and get advantage 0, as does a group
    with fewer than two scored completions.

    Args:
        totals: (R,), groups one after another.
        group_size: G; must divide R.
        scale: which deviation to divide by.

    Raises:
        ValueError: if R is not a multiple of G.
    """
    if len(totals) % group_size:
        raise ValueError(f"{len(totals)} rewards are not a whole number of groups of {group_size}")
    groups = totals.view(-1, group_size)
    centred = groups - groups.nanmean(dim=1, keepdim=True)
    if scale == "group":
        centred = centred / (nanstd(groups) + EPS)
    elif scale == "batch":
        centred = centred / (nanstd(totals[None]) + EPS)
    return centred.flatten().nan_to_num(0.0, posinf=0.0, neginf=0.0)


def nanstd(values: torch.Tensor) -> torch.Tensor:
    """Unbiased standard deviation over the last dimension, NaN left out; keeps the dimension. NaN below two values."""
    count = (~values.isnan()).sum(-1, keepdim=True)
    squares = (values - values.nanmean(-1, keepdim=True)).square().nansum(-1, keepdim=True)
    return (squares / (count - 1)).where(count > 1, torch.nan).sqrt()
