"""Two folders of circuit analyses as one page: what is different between an old and a new model."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_narrative.circuits.analysis import Analysis
from lit_narrative.circuits.compare import Comparable, find_common, list_changes
from lit_narrative.circuits.figures.draw import draw_figures
from lit_narrative.circuits.report.page import section
from lit_narrative.circuits.suite import load_results
from lit_narrative.errors import UserError
from lit_narrative.files import write_json, write_text
from lit_narrative.report.page import Section, fill_page, render

LEAD = (
    "The same analyses of two models, side by side, on the same rows. A difference between two checkpoints of one run "
    "is no more than that: another seed may differ as much."
)
Changes = Mapping[str, Any]


def write_comparison(
    old: str | Path,
    new: str | Path,
    page: str | Path,
    names: Sequence[str] = ("old", "new"),
    extra: Iterable[Analysis] = (),
) -> Path:
    """Compare two folders of analyses; write the page, and its numbers beside it under the same name as ``.json``.

    Args:
        old: of the first model.
        new: of the second.
        page: the HTML file.
        names: what the two are called in figures.
        extra: analyses of other packages (`suite.load_extra`).

    Raises:
        UserError: a folder cannot be read, they have nothing in common, the names are not two, or the page is called
            ``.json``.
    """
    if Path(page).suffix == ".json":
        raise UserError(f"the page '{page}' cannot end in .json: its numbers get that name; call it .html")
    if len(set(names)) != 2 or not all(names):
        raise UserError(f"to compare takes two different names, not {', '.join(map(repr, names)) or 'none'}")
    extra = tuple(extra)
    common = find_common(load_results(old, extra), load_results(new, extra))
    changes = list_changes(common)
    text = _page(common, changes, names)  # before the first file is written: a fault in a figure leaves neither
    write_json(Path(page).with_suffix(".json"), changes)
    return write_text(page, text)


def _page(common: Comparable, changes: Changes, names: Sequence[str]) -> str:
    figures = draw_figures(dict(zip(names, (common.old, common.new), strict=True)))
    sections = [
        section(analysis, common.new.manifest, analysis.change_findings(changes), figures)
        for analysis in common.new.analyses
        if common.old.has(analysis) and common.new.has(analysis)
    ]
    title = f"What changed from {names[0]} to {names[1]}"
    return fill_page(title, LEAD, [_summary(common, changes, names), *sections], "comparison of circuits")


def _summary(common: Comparable, changes: Changes, names: Sequence[str]) -> Section:
    both = zip(names, (common.old, common.new), strict=True)
    models = [(name, results.folder, results.manifest) for name, results in both]
    body = render(__name__, "comparison.html", changes=changes, names=names, models=models)
    return Section("what", "What is compared", body)
