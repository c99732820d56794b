"""The circuit analyses of a cards run in a few figures, with links to their pages."""

import logging
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lit_narrative.errors import UserError
from lit_narrative.report.page import Section, render
from lit_narrative.tasks.cards.report.run import BASE, CardsRun, Circuits, SeedRun

MEANING = {
    "probes/selectivity": "how much better the best linear probes do than with shuffled labels",
    "patching/*/recovery": "share of the right answer's lead that one patched part of a block brings back, at best",
    "ablation/*/accuracy": "share of the answer's tokens that the whole model gets right",
    "ablation/*/jaccard": "overlap of the most important parts with those of the known rules",
    "attribution/*/cpr": "share of the effect that circuits of the best edges keep, averaged over sizes",
    "acdc/*/edges": "edges that are left when those that change least are dropped",
    "acdc/*/faithfulness": "share of the effect that those edges keep, on other pairs",
    "lens/*/logit_diff": "lead of the right answer's logit over the other one's at the last layer",
    "sae/explained_variance": "share of the activations' variance that the autoencoder keeps",
    "sae/l0": "features active at once",
}
"""What the figures of the manifest mean, a set's name replaced by a star."""


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
    parts = name.split("/")
    # Figures are named analysis/set/measure; the meaning is the same on every set.
    return MEANING.get(f"{parts[0]}/*/{parts[-1]}" if len(parts) == 3 else name, "")


def _weak(one: Circuits, name: str) -> bool:
    """Whether a figure is of a split that the model hardly answers by the rule."""
    parts = name.split("/")
    return name in one.figures and len(parts) == 3 and parts[1] in one.weak


def _label(path: str) -> str:
    """The job and the page, without what all paths share."""
    parts = path.removesuffix(".html").split("/")
    return " ".join(dict.fromkeys(part for part in parts if not part.startswith("seed_")))
