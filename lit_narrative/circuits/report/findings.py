"""Sentences that findings of several analyses share: the largest values, and what moved between two models."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from lit_narrative.report.format import number, signed

NAMED = 3
"""Parts, edges and probes that a sentence names."""
MOVED = 5
"""Probes and patches that a comparison lists as those that changed most."""


def name_first(values: Mapping[str, float]) -> str:
    """The first entries of a ranking: ``a0.h1 (+0.42), m0 (+0.31)``."""
    return ", ".join(f"{name} ({signed(value, 2)})" for name, value in islice(values.items(), NAMED))


def change(old: float, new: float) -> dict[str, float]:
    """A number of two models, and the change."""
    return {"old": old, "new": new, "change": new - old}


def largest_changes(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows whose ``change`` is largest in magnitude."""
    return sorted(rows, key=lambda row: -abs(row["change"]))[:MOVED]


def name_changes(rows: Sequence[Mapping[str, Any]], name: Callable[[Mapping[str, Any]], str]) -> str:
    """The first of `largest_changes` in words; ``none moved`` where nothing did."""
    moved = (row for row in rows[:NAMED] if row["change"])
    return "; ".join(f"{name(row)} {number(row['old'], 2)} → {number(row['new'], 2)}" for row in moved) or "none moved"


def say_overlap(what: str, overlaps: Mapping[str, Any]) -> Iterator[str]:
    """For each split, how far two models rely on the same parts or edges (`overlap.Overlap` as JSON)."""
    for split, both in overlaps.items():
        weak = "; one of the two is weak here, so this says little" if both["weak"] else ""
        yield (
            f"{split}: {both['shared']} of the top {both['k']} {what} are the same in both (Jaccard "
            f"{number(both['jaccard'], 2)}, by chance {number(both['chance'], 2)}, p {number(both['p_value'])}; "
            f"Spearman over all {what} {number(both['spearman'], 2)}){weak}."
        )
