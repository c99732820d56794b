"""What is logged about a window of rollouts, under the names that TRL uses."""

from collections.abc import Mapping

import torch

from lit_narrative.rl.advantages import nanstd


def rollout_metrics(
    rewards: Mapping[str, torch.Tensor],
    totals: torch.Tensor,
    lengths: torch.Tensor,
    finished: torch.Tensor,
    group_size: int,
) -> dict[str, float]:
    """Summaries of R scored completions.

    Args:
        rewards: (R,) of each reward; NaN where it could not score.
        totals: (R,) weighted sums.
        lengths: (R,) tokens.
        finished: (R,) 1 where the policy ended the text itself.
        group_size: completions a prompt.
    """
    deviations = nanstd(totals.view(-1, group_size)).squeeze(1)
    metrics = {
        "reward": totals.nanmean(),
        "reward_std": nanstd(totals[None]).squeeze(),
        "frac_reward_zero_std": (deviations.nan_to_num() < 1e-8).float().mean(),
        "completions/mean_length": lengths.mean(),
        "completions/min_length": lengths.min(),
        "completions/max_length": lengths.max(),
        "completions/clipped_ratio": 1 - finished.mean(),
    }
    for name, values in rewards.items():
        metrics[f"rewards/{name}/mean"] = values.nanmean()
        metrics[f"rewards/{name}/std"] = nanstd(values[None]).squeeze()
    # A reward that scored nothing has no mean; it is left out rather than logged as NaN.
    return {name: float(value) for name, value in metrics.items() if not value.isnan()}
