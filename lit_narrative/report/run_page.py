"""The page of any run: figures, curves and samples of its jobs, whatever the task; it draws no conclusion."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from statistics import fmean
from typing import Any

from lit_narrative.errors import UserError
from lit_narrative.report.charts import Frame, Line, line_chart
from lit_narrative.report.format import significant
from lit_narrative.report.intervals import student
from lit_narrative.report.jobs import JobFolder, main_first, read_jobs, thinned
from lit_narrative.report.page import Figure, Key, Report, Section, render, reproduce, settings
from lit_narrative.report.run_folder import read_config

_CHARTS, _ROWS, _COLUMNS, _POINTS, _FEW = 12, 16, 5, 300, 12
_PROMPT, _TEXT, _SCORES = 600, 1500, 8
_TONES = ("final", "sft", "validation", "other", "corpus", "plain")
Jobs = Mapping[str, Sequence[JobFolder]]
"""Name of a job -> its folders, one a seed."""


def make_report(out: Path) -> Report:
    """Make the report of a run's folder: a recipe's, with one seed or several, or that of a single job.

    Raises:
        UserError: no job in it has left a figure or a text, or a table is not what it should be.
    """
    folder, found = read_jobs(out)
    if not found:
        raise UserError(f"'{out}' holds no job with metrics (metrics.csv) or samples (samples/*.jsonl)")
    jobs: dict[str, list[JobFolder]] = {}
    for job in found:
        jobs.setdefault(job.name, []).append(job)
    configs = {job.place: read_config(job.path) for job in found}
    kept = {place: text for place, text in configs.items() if text is not None}
    fits = [job.place for job in found if job.place in kept and job.curves]
    sections = [_figures(jobs), _training(jobs), _samples(jobs), settings(kept), reproduce(folder, fits)]
    lead = render(__name__, "any_lead.html", jobs=list(jobs), seeds=list(dict.fromkeys(job.seed for job in found)))
    return Report(lead, sections, {"task": None, "jobs": {job.place: _summary(job) for job in found}})


def _summary(job: JobFolder) -> dict[str, Any]:
    return {"last": {name: curve[-1][1] for name, curve in job.curves.items()}, "figures": dict(job.figures)}


def _figures(jobs: Jobs) -> Section:
    tests = {name: [dict(job.figures) for job in folders] for name, folders in jobs.items()}
    ends = {name: [_ends(job) for job in folders] for name, folders in jobs.items()}
    several = any(len(folders) > 1 for folders in jobs.values())
    body = render(__name__, "any_figures.html", tests=_tables(tests), ends=_tables(ends), several=several)
    return Section("figures", "Figures", body)


def _ends(job: JobFolder) -> dict[str, float]:
    return {metric: curve[-1][1] for metric, curve in job.curves.items()}


def _tables(values: Mapping[str, Sequence[Mapping[str, float]]]) -> list[dict[str, Any]]:
    """Tables of a few jobs side by side, the main metrics first: of each cell the mean and its interval."""
    names = [name for name, seeds in values.items() if any(seeds)]
    tables = []
    for start in range(0, len(names), _COLUMNS):
        columns = names[start : start + _COLUMNS]
        metrics = main_first({metric for name in columns for one in values[name] for metric in one})
        rows = []
        for metric in metrics:
            cells = [_cell([one[metric] for one in values[name] if metric in one]) for name in columns]
            rows.append((metric.removeprefix("test/"), cells))
        tables.append({"columns": columns, "rows": rows[:_ROWS], "more": rows[_ROWS:]})
    return tables


def _cell(values: Sequence[float]) -> tuple[str, str]:
    if not values:
        return "–", ""
    ends = student(values)
    return significant(fmean(values)), "" if ends is None else f"{significant(ends[0])} to {significant(ends[1])}"


def _training(jobs: Jobs) -> Section:
    groups = []
    for name, folders in jobs.items():
        moving = {metric for job in folders for metric, curve in job.curves.items() if len(curve) > 1}
        order = main_first(moving)
        if order:
            charts = [_chart(metric, folders) for metric in order[:_CHARTS]]
            groups.append((name, charts, order[_CHARTS:]))
    return Section("training", "Training", render(__name__, "any_training.html", groups=groups))


def _chart(metric: str, folders: Sequence[JobFolder]) -> Figure:
    there = [job for job in folders if metric in job.curves]
    lines = [
        Line(job.seed, thinned(job.curves[metric], _POINTS), tone, marked=len(job.curves[metric]) < _FEW)
        for job, tone in zip(there, cycle(_TONES), strict=False)
    ]
    keys = [Key(line.name, line.tone) for line in lines] if len(lines) > 1 else []
    return Figure(metric, line_chart(metric, lines, frame=Frame(x_label="step")), keys=keys)


def _samples(jobs: Jobs) -> Section:
    groups = []
    for name, folders in jobs.items():
        # One seed's are enough to read; the others lie beside it.
        for excerpt in folders[0].excerpts:
            cards = [
                (
                    one.prompt,
                    one.text,
                    [(part, significant(one.scores[part])) for part in main_first(one.scores)[:_SCORES]],
                )
                for one in excerpt.samples
            ]
            groups.append((f"{name}/{excerpt.file}", cards, excerpt.unreadable))
    body = render(__name__, "any_samples.html", groups=groups, prompt_limit=_PROMPT, text_limit=_TEXT)
    return Section("samples", "Samples", body)
