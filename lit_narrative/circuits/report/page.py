"""A folder of circuit analyses as one HTML file: what was asked, how to read it, figures, and what they say."""

import base64
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from markupsafe import Markup

from lit_narrative.circuits.analyses.residual_features import FeatureRow
from lit_narrative.circuits.figures.draw import Drawn, draw_figures, write_figures
from lit_narrative.circuits.report.about import ANALYSES, about
from lit_narrative.circuits.report.findings import FINDINGS, warn
from lit_narrative.circuits.results import CircuitResults
from lit_narrative.files import write_text
from lit_narrative.report.format import clip
from lit_narrative.report.page import Section, fill_page, render

LEAD = (
    "A copy of the model was opened up to see which of its parts carry its answers, on the split it is at home on and "
    "on others. Everything here is about this model on these rows; the tables are in the same folder."
)
CARRY = 8
"""Features that are listed as those that the answer rests on most."""
LISTED, EXAMPLES, TEXT = 3, 3, 160
"""Features of a kind that are shown with what fires them, examples of each, and characters of an example."""


def write_circuits_page(folder: str | Path) -> Path:
    """Write ``figures/*.png`` and ``circuits.html`` into a folder of analyses.

    Raises:
        UserError: it is no such folder, or a table cannot be read.
    """
    results = CircuitResults.load(folder)
    figures = draw_figures({"": results})
    write_figures(figures, Path(folder, "figures"))
    return write_text(Path(folder, "circuits.html"), _page(results, figures))


def build_circuits_page(folder: str | Path) -> str:
    """The page of a folder that ``CircuitAnalysis`` wrote, as HTML that needs no script, network or other file.

    Raises:
        UserError: it is no such folder, or a table cannot be read.
    """
    results = CircuitResults.load(folder)
    return _page(results, draw_figures({"": results}))


def _page(results: CircuitResults, figures: Sequence[Drawn]) -> str:
    sections = [_summary(results), *(_part(name, results, figures) for name in ANALYSES if _done(name, figures))]
    name = str(results.manifest.get("checkpoint") or "a model without checkpoint")
    return fill_page(f"Circuits of {clip(name, 80)}", LEAD, sections, "circuit analysis")


def _done(analysis: str, figures: Sequence[Drawn]) -> bool:
    return any(figure.analysis == analysis for figure in figures)


def _summary(results: CircuitResults) -> Section:
    manifest = results.manifest
    facts = {
        "checkpoint": manifest.get("checkpoint") or "none",
        "step": manifest.get("step"),
        "seed": str(manifest.get("seed")),
        "analyses": ", ".join(manifest.get("analyses", ())),
        "model": ", ".join(f"{key.replace('_', '-')} {size}" for key, size in (manifest.get("model") or {}).items()),
        "versions": ", ".join(f"{name} {number}" for name, number in manifest.get("versions", {}).items()),
    }
    body = render(
        __name__,
        "summary.html",
        facts={name: value for name, value in facts.items() if value},
        warnings=list(warn(results)),
        errors=manifest.get("errors", {}),
        splits=manifest["splits"],
        home=manifest.get("home"),
    )
    return Section("what", "What was analysed", body)


def _part(name: str, results: CircuitResults, figures: Sequence[Drawn]) -> Section:
    more = (
        render(__name__, "features.html", effects=_effects(results), hooks=_features(results))
        if name == "sae"
        else Markup()
    )
    return part(name, results.manifest, list(FINDINGS[name](results)), figures, more)


def part(
    name: str,
    manifest: Mapping[str, Any],
    said: Sequence[str],
    figures: Sequence[Drawn],
    more: Markup = Markup(),  # noqa: B008 (immutable)
) -> Section:
    """A section about one analysis.

    Args:
        name: of the analysis.
        manifest: of the folder, with the settings of the analyses.
        said: its findings.
        figures: of all analyses.
        more: to stand at the end.
    """
    own = [embed(figure) for figure in figures if figure.analysis == name]
    told = about(name, manifest.get("settings", {}))
    return Section(name, told.title, render(__name__, "part.html", about=told, said=said, figures=own, more=more))


def embed(figure: Drawn) -> Mapping[str, Any]:
    """A figure as templates take it, its PNG within the page."""
    uri = f"data:image/png;base64,{base64.b64encode(figure.png).decode()}"
    width, height = figure.size
    return {"title": figure.title, "uri": uri, "width": width, "height": height}


def _effects(results: CircuitResults) -> dict[str, dict[int, dict[str, float]]]:
    """By hook, the features with the largest effect on any split's answers: their effects by split."""
    found: dict[str, dict[int, dict[str, float]]] = {}
    for hook, rows in results.effects.items():
        largest = sorted(rows, key=lambda row: -abs(row.effect))
        chosen = list(dict.fromkeys(row.feature for row in largest))[:CARRY]
        own = {(row.feature, row.split): row.effect for row in rows}
        splits = [split for split in results.splits if any(row.split == split for row in rows)]
        found[hook] = {number: {split: own.get((number, split), 0.0) for split in splits} for number in chosen}
    return {hook: rows for hook, rows in found.items() if rows}


def _features(results: CircuitResults) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """By hook and kind, a few features that fire often, with the texts that fire them most and patterns."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for hook, features in results.features.items():
        for kind in ("id_specific", "ood_specific", "stable"):
            rows = sorted(
                (row for row in features.rows if row.kind == kind), key=lambda row: -max(row.id_rate, row.rate)
            )
            once = {row.feature: row for row in reversed(rows)}
            chosen = sorted(once.values(), key=lambda row: -max(row.id_rate, row.rate))[:LISTED]
            if chosen:
                named = [_feature(row, results, hook) for row in chosen]
                found.setdefault(hook, {})[kind.replace("_", "-").replace("id-", "ID-").replace("ood-", "OOD-")] = named
    return found


def _feature(row: FeatureRow, results: CircuitResults, hook: str) -> dict[str, Any]:
    examples = (example for example in results.features[hook].top if example["feature"] == row.feature)
    home = results.manifest.get("home")
    patterns = [
        pattern
        for pattern in results.patterns.get(hook, ())
        if pattern.feature == row.feature and pattern.split == home and pattern.correlation is not None
    ]
    texts = [{**example, "text": _end(str(example.get("text", "")))} for example in islice(examples, EXAMPLES)]
    return {
        "number": row.feature,
        "split": row.split,
        "id_rate": row.id_rate,
        "rate": row.rate,
        "patterns": sorted(patterns, key=lambda pattern: -(pattern.correlation or 0.0))[:LISTED],
        "examples": texts,
    }


def _end(text: str) -> str:
    """The last characters of a text: what fires a feature is its last token."""
    return "…" + text[1 - TEXT :].lstrip() if len(text) > TEXT else text
