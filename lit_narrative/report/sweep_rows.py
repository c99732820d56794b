"""The rows of a sweep: a run each, with what its test said."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

DONE, FAILED, MISSING = "done", "failed", "missing"
"""How a run stands; ``missing`` was not run yet, or not with the settings that it has now."""

OWN_COLUMNS = ("seed", "num_prompts", "num_samples", "status", "error", "seconds", "digest", "version", "commit")
"""Columns of every table of runs, between those of the axes and of the metrics."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A text that a run wrote.

    Attributes:
        prompt: what it continues.
        text: what was written.
        scores: metric -> its value for this sample.
    """

    prompt: str
    text: str
    scores: Mapping[str, float] = field(default_factory=dict)


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


def value_name(values: Sequence[str]) -> str:
    """How tables write a run's value of an axis."""
    return "+".join(values)


def metric_names(rows: Iterable[Row], first: Iterable[str] = ()) -> list[str]:
    """The metrics of the rows: those of ``first``, in that order, then the others by name."""
    there = {name for row in rows for name in row.metrics}
    ahead = [name for name in first if name in there]
    return [*ahead, *sorted(there.difference(ahead))]


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
    return as_csv([*axes, *OWN_COLUMNS, *metrics], table)


def as_csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table as text; a cell without value is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
