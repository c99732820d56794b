"""Helpers of the benchmarks: alternating rounds, ratios of neighbouring rounds, and tables."""

from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Rates(NamedTuple):
    """Tokens a second."""

    cpu: float
    wall: float


def alternate(sides: Sequence[Callable[[int], T]], rounds: int) -> list[list[T]]:
    """The results of each side in each round; the sides take turns, so that a busy machine slows all of them.

    Args:
        sides: called with the number of the round, from 1.
        rounds: turns of each.
    """
    results: list[list[T]] = [[] for _ in sides]
    for number in range(1, rounds + 1):
        for side, kept in zip(sides, results, strict=True):
            kept.append(side(number))
    return results


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Of neighbouring rounds."""
    return [a / b for a, b in zip(above, below, strict=True)]


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """The first column on the left, figures on the right."""
    width = max(24, *(len(row[0]) + 2 for row in rows))
    for row in (columns, *rows):
        print(f"{row[0]:<{width}}" + "".join(f"{cell:>{max(12, len(cell) + 3)}}" for cell in row[1:]))


def print_markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """The same as Markdown."""
    for row in (columns, ["---", *["---:"] * (len(columns) - 1)], *rows):
        print("| " + " | ".join(row) + " |")


def print_rates(names: tuple[str, str], ours: Sequence[Rates], theirs: Sequence[Rates]) -> None:
    """Medians, and the median of the ratios of neighbouring rounds."""
    rows = []
    for place, unit in enumerate(("per CPU second", "per second")):
        a, b = [r[place] for r in ours], [r[place] for r in theirs]
        rows.append([unit, f"{median(a):.0f}", f"{median(b):.0f}", f"{median(ratios(a, b)):.2f}"])
    print_table(["tokens a second", *names, "ratio"], rows)
