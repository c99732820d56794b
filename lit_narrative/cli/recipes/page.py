"""The pages of a sweep: one on all of it, and for each value of its first axis one on what the others do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from lit_narrative.cli.recipes.results import DONE, Row, value_name
from lit_narrative.cli.recipes.statistics import Estimate, Group, is_baseline, measured
from lit_narrative.report.charts import Dot, Point, dot_chart, scatter
from lit_narrative.report.format import clip
from lit_narrative.report.page import Figure, Section, fill_page, render
from lit_narrative.report.svg import padded

PASSES = "steering/passes_per_token"
"""The metric that tells what steering costs; without it, the wall time of a run does."""
_PROMPTS, _TEXT, _NAME = 4, 900, 28


@dataclass(frozen=True, slots=True)
class SweepView:
    """What a page is about.

    Attributes:
        name: of the sweep.
        axis: the first; empty: the page is about all of the sweep.
        value: of the first axis.
        groups: that have this value.
        metrics: that the page shows.
        baseline: axis and value that the others are compared with.
        others: how many metrics the runs have logged besides.
    """

    name: str
    axis: str
    value: str
    groups: Sequence[Group]
    metrics: Sequence[str]
    baseline: tuple[str, str] | None
    others: int = 0

    def label(self, group: Group) -> str:
        """What the page calls a group: its values of the other axes, and how many prompts where that differs."""
        parts = [value_name(names) for axis, names in group.values.items() if axis != self.axis]
        if len({other.num_prompts for other in self.groups}) > 1:
            parts.append(f"{group.num_prompts} prompts")
        return clip(" · ".join(parts) or self.value, _NAME)

    def tone(self, group: Group) -> str:
        """Colour role of a group."""
        return "sft" if is_baseline(group, self.baseline) else "final"


def build_sweep_page(view: SweepView) -> str:
    """Return the HTML."""
    sections = [_runs(view), _figures(view), _costs(view), _samples(view)]
    lead = render(__name__, "lead.html", axis=view.axis, value=view.value, baseline=view.baseline)
    title = f"{clip(view.name, 40)}: {clip(view.value, 40)}" if view.axis else clip(view.name, 80)
    return fill_page(title, lead, sections, "report of a sweep")


def _runs(view: SweepView) -> Section:
    rows = [row for group in view.groups for row in group.rows]
    bad = [row for row in rows if row.status != DONE]
    body = render(__name__, "runs.html", done=len(rows) - len(bad), total=len(rows), bad=bad)
    return Section("runs", "What was run", body)


def _figures(view: SweepView) -> Section:
    tables = [(name, [_line(view, group, name) for group in view.groups]) for name in view.metrics]
    charts = [_chart(view, name) for name in view.metrics]
    estimates = [group.estimates[name] for group in view.groups for name in view.metrics if name in group.estimates]
    body = render(
        __name__,
        "figures.html",
        charts=[chart for chart in charts if chart],
        tables=tables,
        compared=any(group.differences for group in view.groups),
        baseline=view.baseline,
        seeds=any(one.seeds for one in estimates),
        prompts=any(one.prompts for one in estimates if not one.seeds),
        others=view.others,
    )
    return Section("figures", "Figures", body)


def _line(view: SweepView, group: Group, metric: str) -> Mapping[str, object]:
    return {
        "name": view.label(group),
        "tone": view.tone(group),
        "estimate": group.estimates.get(metric),
        "difference": group.differences.get(metric),
    }


def _chart(view: SweepView, metric: str) -> Figure | None:
    estimated = [(group, group.estimates[metric]) for group in view.groups if metric in group.estimates]
    if not estimated:
        return None
    rows = [
        (view.label(group), [*_single(group, metric), Dot("mean", one.mean, view.tone(group), one.interval)])
        for group, one in estimated
    ]
    ends = [value for _, one in estimated for value in (one.mean, *(one.interval or ()))]
    ends += [dot.value for _, dots in rows for dot in dots]
    # About 6.5 units a character; the largest gutter leaves half of the chart's 360 units to the dots.
    gutter = min(40 + 6.5 * max(len(name) for name, _ in rows), 190)
    chart = dot_chart(metric, rows, padded(ends), gutter, _baseline_mean(estimated, view.baseline))
    return Figure(metric, chart, "Dot: mean, with its 95% interval; rings: single runs.")


def _single(group: Group, metric: str) -> list[Dot]:
    rows = measured(group, metric)
    return [Dot(row.key, row.metrics[metric], "corpus", hollow=True) for row in rows] if len(rows) > 1 else []


def _baseline_mean(estimated: Sequence[tuple[Group, Estimate]], baseline: tuple[str, str] | None) -> float | None:
    means = [one.mean for group, one in estimated if is_baseline(group, baseline)]
    # With several baselines (one for each value of another axis) there is no single level to draw.
    return means[0] if len(means) == 1 else None


def _costs(view: SweepView) -> Section:
    costs = [(group, cost) for group in view.groups if (cost := _cost(group, view)) is not None]
    label = "passes of the model a token" if _has_passes(view) else "seconds a run"
    charts = []
    for name in view.metrics:
        points = [_point(view, group, cost, name) for group, cost in costs if name in group.estimates]
        if points:
            charts.append(Figure(name, scatter(name, points, label)))
    body = render(__name__, "costs.html", charts=charts, passes=_has_passes(view))
    return Section("cost", "Quality against cost", body)


def _point(view: SweepView, group: Group, cost: float, metric: str) -> Point:
    estimate = group.estimates[metric]
    return Point(view.label(group), cost, estimate.mean, view.tone(group), estimate.interval)


def _has_passes(view: SweepView) -> bool:
    # Passes and seconds cannot share an axis: one run without passes turns all to seconds.
    return all(PASSES in row.metrics for group in view.groups for row in group.rows if row.status == DONE)


def _cost(group: Group, view: SweepView) -> float | None:
    """What a group costs, in the same unit for all of the page."""
    done = [row for row in group.rows if row.status == DONE]
    costs = [row.metrics[PASSES] if _has_passes(view) else row.seconds or 0.0 for row in done]
    return fmean(costs) if costs else None


def _samples(view: SweepView) -> Section:
    pairs = read_together(view)
    return Section(
        "samples", "The same prompts side by side", render(__name__, "samples.html", pairs=pairs, limit=_TEXT)
    )


def read_together(view: SweepView) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """The first prompts, each with what every group wrote: (name, tone, text).

    Of each group the run with the first seed counts, where the most prompts were asked.
    """
    most = max((group.num_prompts or 0 for group in view.groups), default=0)
    groups = [group for group in view.groups if (group.num_prompts or 0) == most]
    columns = [(group, row) for group in groups if (row := _first(group)) is not None]
    if not columns:
        return []
    pairs = []
    for index, sample in enumerate(columns[0][1].samples[:_PROMPTS]):
        same = [(group, row.samples[index]) for group, row in columns if _asked(row, index, sample.prompt)]
        pairs.append((sample.prompt, [(view.label(group), view.tone(group), written.text) for group, written in same]))
    return pairs


def _first(group: Group) -> Row | None:
    return next((row for row in group.rows if row.samples), None)


def _asked(row: Row, index: int, prompt: str) -> bool:
    return index < len(row.samples) and row.samples[index].prompt == prompt
