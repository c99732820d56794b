"""The table of a sweep: a row a run, read from what the run left in its folder."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lit_narrative.cli.recipes.process import job_digest, read_status
from lit_narrative.cli.recipes.recipe import Recipe, texts_in
from lit_narrative.cli.recipes.sweep import OWN_COLUMNS, Run, Sweep
from lit_narrative.files import csv_text, read_table, read_yaml
from lit_narrative.report.jobs import Sample as Sample
from lit_narrative.report.records import read_records

_SPLITS = {"validate": "val", "test": "test", "predict": "predict"}
_QUOTED = re.compile(r"""(?<=['"])[^'"]+(?=['"])""")


def run_digest(plan: Recipe, run: Run) -> str:
    """Return a digest of what decides a run's result: its settings, and the files that they name, by size and date."""
    values = [*run.job.overrides.values(), *(read_yaml(config) for config in run.job.configs)]
    texts = {text for value in values for text in texts_in(value)}
    named = texts.union(*(_QUOTED.findall(text) for text in texts))  # LearnedReward(checkpoint='...') names one too
    # Size and date, not content: a model folder may be tens of GB, and its digest is asked for before every run.
    files = {name: [_state(path) for path in _files(plan.resolve(name))] for name in sorted(named)}
    decides = [job_digest(plan, run.job), {name: states for name, states in files.items() if states}]
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def _files(name: str) -> list[Path]:
    """The file of a name, or the files of a model's folder; none if it is something else."""
    path = Path(name)
    try:
        if path.is_file():
            return [path]
        return sorted(part for part in path.iterdir() if part.is_file()) if (path / "config.json").is_file() else []
    except (OSError, ValueError):  # a text too long for a name, or with a null character
        return []


def _state(path: Path) -> list[int]:
    state = path.stat()
    return [state.st_size, state.st_mtime_ns]


_MAIN = ("reward", "verifiers", "sound", "valid_json", "accuracy", "loss", "perplexity")
_SHOWN = 6
"""Metrics that are shown where the sweep asks for none: at most so many, those of `_MAIN` first."""
DONE, FAILED, MISSING = "done", "failed", "missing"
"""How a run stands; ``missing`` was not run yet, or not with the settings that it has now."""


@dataclass(frozen=True, slots=True)
class Row:
    """A run of a sweep.

    Attributes:
        key: its name and that of its folder.
        values: axis -> value; several where runs would have been the same.
        seed: of the run; None: not set by the sweep.
        num_prompts: as the sweep sets them; None: it does not.
        status: ``done``, ``failed`` or ``missing``.
        error: last lines of what a failed run printed.
        seconds: wall time; None unless it is done.
        digest: of its settings.
        version: of this package.
        commit: of this package's source, where it ran from a git checkout.
        metrics: name -> value.
        samples: what it wrote.
    """

    key: str
    values: Mapping[str, tuple[str, ...]]
    seed: int | None = None
    num_prompts: int | None = None
    status: str = MISSING
    error: str = ""
    seconds: float | None = None
    digest: str = ""
    version: str = ""
    commit: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    samples: Sequence[Sample] = ()

    @property
    def num_samples(self) -> int | None:
        """How many samples it wrote, which may be fewer than it was asked for; None where none were kept."""
        return len(self.samples) or None


def read_row(sweep: Sweep, run: Run) -> Row:
    """The row of a run, as it stands in its folder."""
    plan = sweep.plan()
    job_status, digest = read_status(plan, run.job), run_digest(plan, run)
    status = MISSING
    if job_status.get("digest") == digest:
        status = DONE if job_status.get("finished") else FAILED if "error" in job_status else MISSING
    done, folder = status == DONE, plan.folder(run.job)
    return Row(
        key=run.key,
        values=run.values,
        seed=run.seed,
        num_prompts=run.prompts,
        status=status,
        error=job_status["error"] if status == FAILED else "",
        seconds=job_status["seconds"] if done else None,
        digest=digest,
        version="" if status == MISSING else job_status["version"],
        commit="" if status == MISSING else job_status.get("commit", ""),
        metrics=_read_metrics(folder, sweep) if done else {},
        samples=_read_samples(folder, sweep) if done else (),
    )


def _read_metrics(folder: Path, sweep: Sweep) -> dict[str, float]:
    """The last value of every metric."""
    path = folder / ("metrics.csv" if sweep.command == "fit" else f"metrics_{sweep.command}.csv")
    if not path.is_file():
        return {}
    last: dict[str, str] = {}
    for row in read_table(path):
        last |= row
    return {_name(name, sweep): float(cell) for name, cell in last.items() if name not in {"step", "epoch"}}


def _name(logged: str, sweep: Sweep) -> str:
    """What the tables call a metric: as the sweep says, or without ``test/``."""
    short = logged.removeprefix(f"{_SPLITS.get(sweep.command)}/")
    return next((name for name, wanted in sweep.metrics.items() if wanted in {logged, short}), short)


def _read_samples(folder: Path, sweep: Sweep) -> list[Sample]:
    path = folder / "samples" / f"{_SPLITS.get(sweep.command, 'val')}.jsonl"
    if not path.is_file():
        return []
    rows = [record.value for record in read_records(path)]
    return [Sample(row["prompt"], row["text"], _scores(row, sweep)) for row in rows]


def _scores(row: Mapping[str, Any], sweep: Sweep) -> dict[str, float]:
    """The verifiers' scores of a sample, under the names of the metrics that are their means."""
    logged = {"verifiers": row["reward"]} if "reward" in row else {}
    logged |= {f"components/{name}": value for name, value in row.get("components", {}).items()}
    return {_name(name, sweep): value for name, value in logged.items()}


def value_name(values: Sequence[str]) -> str:
    """How tables write a run's value of an axis."""
    return "+".join(values)


def metric_names(rows: Iterable[Row], first: Iterable[str] = ()) -> list[str]:
    """The metrics of the rows: those of ``first``, in that order, then the others by name."""
    there = {name for row in rows for name in row.metrics}
    ahead = [name for name in first if name in there]
    return [*ahead, *sorted(there.difference(ahead))]


def shown_metrics(metrics: Sequence[str], asked: Iterable[str]) -> list[str]:
    """The metrics that summary, pages and the printed table have: those that were asked for, or else the main ones.

    Args:
        metrics: of the rows.
        asked: by the sweep.
    """
    if wanted := [name for name in asked if name in metrics]:
        return wanted
    plain = [name for name in metrics if "/" not in name]  # with a stroke stand the parts of others
    return sorted(plain or metrics, key=lambda name: (_rank(name), name))[:_SHOWN]


def _rank(name: str) -> int:
    return _MAIN.index(name) if name in _MAIN else len(_MAIN)


def master_table(rows: Sequence[Row], metrics: Sequence[str]) -> str:
    """``master_results.csv``: axes, seed, number of prompts, how the run went, metrics; a row a run."""
    axes = list(rows[0].values)
    table = [
        [
            *(value_name(row.values[axis]) for axis in axes),
            *(getattr(row, column) for column in OWN_COLUMNS),
            *(row.metrics.get(name) for name in metrics),
        ]
        for row in rows
    ]
    return csv_text([[*axes, *OWN_COLUMNS, *metrics], *table])
