"""Measures of a run in tables: what each is called, its figure with an interval, and how it changed.

The macros of ``templates/macros.html`` draw them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lit_narrative.report.format import NONE, interval, number, percent, signed
from lit_narrative.report.intervals import Value, pooled

Cell = tuple[str, str]
"""A figure and its interval as text."""


@dataclass(frozen=True, slots=True)
class Measure:
    """A figure of an evaluation.

    Attributes:
        title: its name on the page.
        note: what it means, for someone who has not met it.
        share: whether it is shown as a percentage.
    """

    title: str
    note: str = ""
    share: bool = False

    def cell(self, value: Value | None) -> Cell:
        """A value of the measure as text."""
        if value is None:
            return NONE, ""
        if not self.share:
            return number(value[0]), interval(value[1]) if value[1] else ""
        return percent(value[0], 1), f"{percent(value[1][0], 1)} to {percent(value[1][1], 1)}" if value[1] else ""


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a table: a title, what it means, and a cell for each column."""

    title: str
    note: str
    cells: Sequence[Cell]


def measure_rows(measures: Mapping[str, Measure], columns: Sequence[Sequence[Mapping[str, Value]]]) -> Iterator[Row]:
    """A row for each measure that has a figure somewhere.

    Args:
        measures: by the names of their figures.
        columns: of each column the figures of its seeds, which are pooled.
    """
    for name, measure in measures.items():
        values = [pooled(seeds, name) for seeds in columns]
        if any(values):
            yield Row(measure.title, measure.note, [measure.cell(value) for value in values])


def measure_groups(
    groups: Mapping[str, Mapping[str, Measure]], columns: Sequence[Sequence[Mapping[str, Value]]]
) -> list[tuple[str, list[Row]]]:
    """The rows of groups of measures by title, those without a figure left out."""
    made = [(title, [*measure_rows(measures, columns)]) for title, measures in groups.items()]
    return [(title, rows) for title, rows in made if rows]


def every_measure(groups: Mapping[str, Mapping[str, Measure]], names: Iterable[str]) -> dict[str, Measure]:
    """Measures of several groups by the names of their figures."""
    known = {name: measure for group in groups.values() for name, measure in group.items()}
    return {name: known[name] for name in names}


def with_interval(value: Value) -> str:
    """A figure in a sentence: ``0.72 (95% 0.70 to 0.74)``."""
    return number(value[0]) + (f" (95% {interval(value[1])})" if value[1] else "")


def say_change(before: Value | None, after: Value | None, change: Value | None, over: str) -> str:
    """A figure before and after reinforcement, with the change; only the one that there is, or nothing, else.

    Args:
        before: of the model that was trained supervised.
        after: of the model that was reinforced.
        change: paired, if it is known.
        over: what its interval is over, such as ``seeds``.
    """
    if before is None or after is None:
        one = before or after
        return with_interval(one) if one else ""
    said = f"{with_interval(before)} after supervised training, {with_interval(after)} after reinforcement"
    if change is None or change[1] is None:
        return said
    return f"{said}; change {signed(change[0])} (95% {interval(change[1])} over {over})"
