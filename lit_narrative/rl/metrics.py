"""Metrics of a rollout batch and of an optimizer step, under the names that TRL uses."""

import math
from collections.abc import Callable, Mapping

import torch

from lit_narrative.rl.advantages import Aggregation, Scale, nanstd


def rollout_metrics(
    rewards: Mapping[str, torch.Tensor],
    totals: torch.Tensor,
    lengths: torch.Tensor,
    finished: torch.Tensor,
    group_size: int,
    *,
    scale: Scale = "group",
    aggregation: Aggregation = "sum_then_normalize",
) -> dict[str, float]:
    """Summaries of R scored completions.

    Args:
        rewards: (R,) of each reward; NaN where it could not score.
        totals: (R,) weighted sums.
        lengths: (R,) tokens.
        finished: (R,) 1 where the policy ended the text itself.
        group_size: completions a prompt.
        scale: as the advantages were scaled; see `zero_deviation`.
        aggregation: how several rewards became one advantage.
    """
    metrics = {
        "reward": totals.nanmean(),
        # Over all completions, not within groups: what TRL logs under this name.
        "reward_std": nanstd(totals[None]).squeeze(),
        "frac_reward_zero_std": zero_deviation(rewards, totals, group_size, scale, aggregation),
        **_lengths("length", lengths),
        **_lengths("terminated_length", lengths[finished > 0]),
        "completions/clipped_ratio": 1 - finished.mean(),
    }
    for name, values in rewards.items():
        metrics[f"rewards/{name}/mean"] = values.nanmean()
        metrics[f"rewards/{name}/std"] = nanstd(values[None]).squeeze()
    # A reward that scored nothing has no mean; it is left out rather than logged as NaN.
    return {name: float(value) for name, value in metrics.items() if not value.isnan()}


def zero_deviation(
    rewards: Mapping[str, torch.Tensor], totals: torch.Tensor, group_size: int, scale: Scale, aggregation: Aggregation
) -> torch.Tensor:
    """Share of completions whose deviation, the one that their advantage is measured by, is 0.

    That is of the group's totals; of the batch's totals with ``scale="batch"``; and with ``normalize_then_sum`` of the
    batch's sums of normalised rewards, which is 0 only if no reward varies within any group. Fewer than two scores have
    no deviation, hence none that is 0 (as TRL counts).
    """
    if aggregation == "normalize_then_sum":
        deviations = nanstd(torch.cat([values.view(-1, group_size) for values in rewards.values()]))
        known = deviations[~deviations.isnan()]
        return deviations.new_tensor(len(known) > 0 and bool((known < 1e-8).all()))
    rows = totals[None] if scale == "batch" else totals.view(-1, group_size)
    return (nanstd(rows) < 1e-8).float().mean()


def _lengths(name: str, lengths: torch.Tensor) -> dict[str, torch.Tensor]:
    lengths = lengths if len(lengths) else lengths.new_zeros(1)  # as TRL: no text that ended itself is length 0
    return {f"completions/{kind}_{name}": getattr(lengths, kind)() for kind in ("mean", "min", "max")}


class StepMetrics:
    """Metrics of one optimizer step, collected over its micro-batches.

    Those of ``sums`` have been divided by the step's totals already: they are summed over micro-batches and processes.
    Those of ``min_max`` are the least (``…min``) or greatest (``…max``) value of any; infinite where there was none.
    """

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}
        self._min_max: dict[str, torch.Tensor] = {}

    def add(self, sums: Mapping[str, torch.Tensor], min_max: Mapping[str, torch.Tensor]) -> None:
        """Take in a micro-batch: scalars by name."""
        # Kept as tensors: reading a number off the device here would wait for each micro-batch to be computed.
        for name, value in sums.items():
            self._sums[name] = self._sums[name] + value.detach() if name in self._sums else value.detach()
        for name, value in min_max.items():
            known = self._min_max.get(name, value)
            self._min_max[name] = (torch.minimum if name.endswith("min") else torch.maximum)(known, value).detach()

    def pop(self, gather: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, float]:
        """The step's metrics over all processes, by one collective; the next step begins.

        A minimum or maximum of nothing, in a step whose completions are all masked, is left out.

        Args:
            gather: puts the (1, n) rows of all processes together, (W, n).
        """
        values = [*self._sums.values(), *self._min_max.values()]
        # One precision, since one collective carries all of them. Columns agree across processes, which all add the
        # same names in the same order: a name is left out by the totals of the whole step, never by those of one
        # process.
        rows = gather(torch.stack([value.float() for value in values])[None])
        metrics = dict(zip(self._sums, rows[:, : len(self._sums)].sum(0).tolist(), strict=True))
        for name, column in zip(self._min_max, rows.T[len(self._sums) :], strict=True):
            least = name.endswith("min")
            value = float(column.min() if least else column.max())
            if value != (math.inf if least else -math.inf):
                metrics[name] = value
        self._sums, self._min_max = {}, {}
        return metrics
