"""A folder of circuit analyses as one HTML file: what was analysed, how to read it, figures, and findings."""

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from lit_narrative.circuits.analysis import Analysis, CircuitResults
from lit_narrative.circuits.figures.draw import Drawn, draw_figures, write_figures
from lit_narrative.circuits.suite import load_results
from lit_narrative.files import write_text
from lit_narrative.report.format import clip
from lit_narrative.report.page import Section, fill_page, render

LEAD = (
    "A copy of the model was opened up to see which of its parts carry its answers, on the split it was trained for "
    "and on others. Everything here is about this model on these rows; the tables are in the same folder."
)


def write_circuits_page(folder: str | Path, extra: Iterable[Analysis] = ()) -> Path:
    """Write ``figures/*.png`` and ``circuits.html`` into a folder of analyses.

    Args:
        folder: that ``CircuitAnalysis`` wrote.
        extra: analyses of other packages.

    Raises:
        UserError: it is not such a folder, or a table cannot be read.
    """
    results = load_results(folder, extra)
    figures = draw_figures({"": results})
    write_figures(figures, Path(folder, "figures"))
    return write_text(Path(folder, "circuits.html"), _page(results, figures))


def build_circuits_page(folder: str | Path) -> str:
    """The page of a folder that ``CircuitAnalysis`` wrote, as HTML that needs no script, network or other file.

    Raises:
        UserError: it is not such a folder, or a table cannot be read.
    """
    results = load_results(folder)
    return _page(results, draw_figures({"": results}))


def _page(results: CircuitResults, figures: Sequence[Drawn]) -> str:
    sections = [
        section(analysis, results.manifest, analysis.findings(results), figures, analysis.details(results))
        for analysis in results.analyses
        if results.has(analysis)
    ]
    name = str(results.manifest.get("checkpoint") or "a model without checkpoint")
    return fill_page(f"Circuits of {clip(name, 80)}", LEAD, [_summary(results), *sections], "circuit analysis")


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
        warnings=list(_warn(results)),
        errors=manifest.get("errors", {}),
        splits=manifest["splits"],
        reference=results.reference_split,
    )
    return Section("what", "What was analysed", body)


def _warn(results: CircuitResults) -> Iterator[str]:
    """What a reader must know before believing any number."""
    for analysis in results.analyses:
        yield from analysis.warnings(results)
    for split, counts in results.manifest["splits"].items():
        if dropped := counts.get("pairs_dropped", 0):
            yield f"On {split}, {dropped} pairs were left out: this tokenizer cannot set their prompts side by side."


def section(
    analysis: Analysis,
    manifest: Mapping[str, Any],
    findings: Iterable[str],
    figures: Sequence[Drawn],
    details: Markup = Markup(),  # noqa: B008 (immutable)
) -> Section:
    """A section about one analysis.

    Args:
        analysis: which.
        manifest: of the folder, with the settings of the analyses.
        findings: sentences.
        figures: of all analyses.
        details: HTML for its end.
    """
    about = analysis.about.filled(manifest.get("settings", {}).get(analysis.name, {}))
    embedded = [embed(figure) for figure in figures if figure.analysis == analysis.name]
    body = render(__name__, "part.html", about=about, findings=list(findings), figures=embedded, details=details)
    return Section(analysis.name, about.title, body)


def embed(figure: Drawn) -> Mapping[str, Any]:
    """A figure as templates take it, its PNG within the page."""
    # Within the page, so that it can be sent as one file and opened without the folder.
    uri = f"data:image/png;base64,{base64.b64encode(figure.png).decode()}"
    width, height = figure.size
    return {"title": figure.title, "uri": uri, "width": width, "height": height}
