"""The circuit analyses of a cards run in a few figures, with links to their pages."""

import logging
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lit_narrative.circuits.suite import ANALYSES
from lit_narrative.errors import UserError
from lit_narrative.report.page import Section, render
from lit_narrative.tasks.cards.report.run import BASE, CardsRun, Circuits, SeedRun


def circuits(run: CardsRun) -> Section:
    """Set the key figures of a seed's analyses side by side."""
    seeds = [_seed(seed) for seed in run.seeds if seed.circuits]
    return Section(
        "circuits", "What is inside", render(__name__, "circuits.html", seeds=seeds, several=len(run.seeds) > 1)
    )


def _seed(seed: SeedRun) -> dict[str, Any]:
    # In the order in which the analyses log them; a set would shuffle the rows from run to run.
    names = list(dict.fromkeys(name for one in seed.circuits for name in one.figures))
    rows = [
        {
            "name": name,
            "meaning": meaning(name),
            "cells": [(one.figures.get(name), _weak(one, name)) for one in seed.circuits],
        }
        for name in names
    ]
    return {
        "name": seed.name,
        "analyses": [one.name for one in seed.circuits],
        "rows": rows,
        "weak": any(weak for row in rows for _, weak in row["cells"]),
        # Paths hold the job's name, which may hold what a URL cannot.
        "links": [(_label(path), quote(path)) for one in seed.circuits for path in one.pages],
        "errors": [(one.name, name, reason) for one in seed.circuits for name, reason in one.errors.items()],
    }


def compare_circuits(seed: Path) -> None:
    """Write a page of what each arm's circuit analysis shows that the base's does not, beside the arm's.

    Args:
        seed: the folder of the seed's jobs.
    """
    base = seed / f"circuits_{BASE}"
    others = [path.parent for path in seed.glob("circuits_*/circuits") if path.parent != base]
    if not others or not (base / "circuits").is_dir():
        return
    from lit_narrative.circuits.report.comparison import write_comparison  # draws with matplotlib, so only if needed

    for job in sorted(others):
        names, page = (BASE, job.name.removeprefix("circuits_")), job / "comparison.html"
        try:
            write_comparison(base / "circuits", job / "circuits", page, names)
        except UserError as error:  # the rest of the report stands without it
            for old in (page, page.with_suffix(".json")):
                old.unlink(missing_ok=True)
            logging.getLogger("lit_narrative").warning("%s cannot be compared: %s", job, error)


def meaning(name: str) -> str:
    """What a figure says; empty where that is not known."""
    analysis, _, rest = name.partition("/")
    # Figures are named analysis/set/measure or analysis/measure; the meaning is the same on every set.
    key = f"*/{rest.rpartition('/')[2]}" if "/" in rest else rest
    return ANALYSES[analysis].meanings.get(key, "") if analysis in ANALYSES else ""


def _weak(one: Circuits, name: str) -> bool:
    """Whether a figure is of a split that the model hardly answers by the rule."""
    parts = name.split("/")
    return name in one.figures and len(parts) == 3 and parts[1] in one.weak


def _label(path: str) -> str:
    """The job and the page, without what all paths share."""
    parts = path.removesuffix(".html").split("/")
    return " ".join(dict.fromkeys(part for part in parts if not part.startswith("seed_")))
