"""Statistics of a sweep's runs: means over seeds, intervals, and differences from a baseline on the same prompts.

Two questions have an interval each: what other seeds would give on these prompts (Student's t over the runs), and what
other prompts would give with these seeds (bootstrap, where the scores of single samples are there). A bootstrap over
two or three runs would be far too narrow: it holds the truth half and three quarters of the time.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

import numpy as np

from lit_narrative.cli.recipes.results import DONE, Row, value_name
from lit_narrative.files import csv_text
from lit_narrative.report.format import number, significant
from lit_narrative.report.intervals import Floats, Interval, bootstrap, student

_ENDS = ("ci_low", "ci_high", "t_low", "t_high")  # of the intervals over prompts, and over seeds


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over runs.

    Attributes:
        mean: of the runs' values.
        std: of the runs' values, with n - 1; None of a single run.
        count: of runs.
        seeds: 95 % interval by Student's t over the runs; None of a single run.
        prompts: 95 % interval by bootstrap over prompts; None unless every run was asked the same ones, two or more.
    """

    mean: float
    std: float | None
    count: int
    seeds: Interval | None
    prompts: Interval | None

    @property
    def interval(self) -> Interval | None:
        """The interval to show: over seeds where there are several runs, else over prompts."""
        return self.seeds or self.prompts


@dataclass(frozen=True, slots=True)
class Group:
    """The runs that differ in nothing but their seed.

    Attributes:
        values: axis -> value.
        num_prompts: as the sweep sets them.
        rows: the runs, by seed.
        estimates: metric -> mean over the runs that are done.
        differences: metric -> mean of run less baseline, seed by seed.
    """

    values: Mapping[str, tuple[str, ...]]
    num_prompts: int | None
    rows: tuple[Row, ...]
    estimates: Mapping[str, Estimate] = field(default_factory=dict)
    differences: Mapping[str, Estimate] = field(default_factory=dict)


def group_rows(rows: Sequence[Row], metrics: Sequence[str], baseline: tuple[str, str] | None) -> list[Group]:
    """Put runs together that differ in their seed alone, and estimate.

    Args:
        rows: all of a sweep.
        metrics: to estimate.
        baseline: axis and value that the others are compared with.
    """
    together: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        together.setdefault((*row.values.values(), row.num_prompts), []).append(row)
    groups = [Group(part[0].values, part[0].num_prompts, tuple(part)) for part in together.values()]
    return [_estimated(group, _baseline_of(group, groups, baseline), metrics) for group in groups]


def _estimated(group: Group, base: Group | None, metrics: Sequence[str]) -> Group:
    estimates = {name: estimate([(row, None) for row in measured(group, name)], name) for name in metrics}
    pairs = {} if base is None else {name: difference(group, base, name) for name in metrics}
    return Group(group.values, group.num_prompts, group.rows, _known(estimates), _known(pairs))


def _known(estimates: Mapping[str, Estimate | None]) -> dict[str, Estimate]:
    return {name: value for name, value in estimates.items() if value is not None}


def is_baseline(group: Group, baseline: tuple[str, str] | None) -> bool:
    """Whether others are compared with a group."""
    return baseline is not None and baseline[1] in group.values[baseline[0]]


def _baseline_of(group: Group, groups: Sequence[Group], baseline: tuple[str, str] | None) -> Group | None:
    """Return the group that differs in nothing but the axis of the baseline."""
    if baseline is None or is_baseline(group, baseline):
        return None
    return next(
        (other for other in groups if is_baseline(other, baseline) and _same_but(group, other, baseline[0])), None
    )


def _same_but(group: Group, base: Group, but: str) -> bool:
    others = (axis for axis in group.values if axis != but)
    # A subset: runs with equal settings were merged, so the baseline may stand for several values of an axis.
    same = all(set(group.values[axis]) <= set(base.values[axis]) for axis in others)
    return same and group.num_prompts == base.num_prompts


def measured(group: Group, metric: str) -> list[Row]:
    """The runs with a figure; NaN and infinity do not count."""
    return [row for row in group.rows if row.status == DONE and math.isfinite(row.metrics.get(metric, math.nan))]


def _pairs(group: Group, base: Group, metric: str) -> list[tuple[Row, Row | None]]:
    by_seed = {row.seed: row for row in measured(base, metric)}
    return [(row, by_seed[row.seed]) for row in measured(group, metric) if row.seed in by_seed]


def difference(group: Group, base: Group, metric: str) -> Estimate | None:
    """The mean difference of a metric between two groups, seed by seed; None where no seed has both, or of itself."""
    return None if group is base else estimate(_pairs(group, base, metric), metric)


def estimate(pairs: Sequence[tuple[Row, Row | None]], metric: str) -> Estimate | None:
    """The mean of a metric, or of its difference within pairs of rows; None without rows."""
    if not pairs:
        return None
    values = [row.metrics[metric] - (base.metrics[metric] if base else 0.0) for row, base in pairs]
    # Over prompts, the seeds of a prompt are averaged first: they are not independent samples of prompts.
    scores = _scores(pairs, metric)
    spread = stdev(values) if len(values) > 1 else None
    over_prompts = None if scores is None else bootstrap(scores.mean(0))
    return Estimate(fmean(values), spread, len(values), student(values), over_prompts)


def _scores(pairs: Sequence[tuple[Row, Row | None]], metric: str) -> Floats | None:
    """(seeds, prompts) scores, or their differences.

    None unless every run was asked the same prompts, and the metric is the mean of such scores.
    """
    rows = [row for pair in pairs for row in pair if row is not None]
    prompts = [sample.prompt for sample in rows[0].samples]
    if not prompts or not all(_explains(row, prompts, metric) for row in rows):
        return None
    return np.array([[_score(*pair, metric, index) for index in range(len(prompts))] for pair in pairs])


def _explains(row: Row, prompts: Sequence[str], metric: str) -> bool:
    """Whether a run's metric is the mean of the scores of its samples of these prompts."""
    scores = [sample.scores[metric] for sample in row.samples if metric in sample.scores]
    if [sample.prompt for sample in row.samples] != prompts or len(scores) != len(prompts):
        return False
    # A metric that is no mean over samples, such as a perplexity of all tokens, has no bootstrap over them.
    return math.isclose(fmean(scores), row.metrics[metric], rel_tol=1e-4, abs_tol=1e-6)


def _score(row: Row, base: Row | None, metric: str, index: int) -> float:
    return row.samples[index].scores[metric] - (base.samples[index].scores[metric] if base else 0.0)


def summary_table(groups: Sequence[Group], metrics: Sequence[str]) -> str:
    """``analysis_summary.csv``: a row a group, under one header; differences where there is a baseline.

    Of each metric ``ci`` is the interval over prompts (bootstrap), ``t`` that over seeds (Student's t).
    """
    axes = list(groups[0].values)
    compared = any(group.differences for group in groups)
    header = [*axes, "num_prompts"]
    for name in metrics:
        header += [f"{name}_{part}" for part in ("mean", "std", "count", *_ENDS)]
        header += [f"{name}_diff", *(f"{name}_diff_{part}" for part in _ENDS)] if compared else []
    rows = [
        [
            *(value_name(group.values[axis]) for axis in axes),
            group.num_prompts,
            *(cell for name in metrics for cell in _cells(group, name, compared)),
        ]
        for group in groups
    ]
    return csv_text([header, *rows])


def text_table(groups: Sequence[Group], metrics: Sequence[str]) -> str:
    """The summary for a terminal: a line a group, of each metric the mean with its 95 % interval."""
    counts = len({group.num_prompts for group in groups}) > 1
    rows = [[*groups[0].values, *(["prompts"] if counts else []), "runs", *metrics]]
    for group in groups:
        done = sum(row.status == DONE for row in group.rows)
        names = [value_name(values) for values in group.values.values()]
        rows.append([*names, *([str(group.num_prompts)] if counts else []), f"{done} of {len(group.rows)}"])
        rows[-1] += [_words(group.estimates.get(name)) for name in metrics]
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _words(estimate: Estimate | None) -> str:
    if estimate is None:
        return "–"
    ends = estimate.interval
    return _figure(estimate.mean) + (f" [{_figure(ends[0])}, {_figure(ends[1])}]" if ends else "")


def _figure(value: float) -> str:
    """Three decimals, but for what these would leave nothing of, such as a rate of learning."""
    return number(value) if abs(value) >= 0.01 or not value else significant(value)


def _cells(group: Group, metric: str, compared: bool) -> list[Any]:
    estimate, difference = group.estimates.get(metric), group.differences.get(metric)
    cells = (
        [estimate.mean, estimate.std, estimate.count, *_ends(estimate)] if estimate else [None, None, 0, *_ends(None)]
    )
    return [*cells, difference.mean if difference else None, *_ends(difference)] if compared else cells


def _ends(estimate: Estimate | None) -> list[float | None]:
    """The cells of `_ENDS`."""
    intervals = (estimate.prompts, estimate.seeds) if estimate else (None, None)
    return [end for interval in intervals for end in interval or (None, None)]
