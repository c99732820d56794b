"""Two folders of circuit analyses as one page: what is different between an old and a new model."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_narrative.circuits.compare import Comparable, find_common, list_changes
from lit_narrative.circuits.figures.draw import draw_figures
from lit_narrative.circuits.report.about import ANALYSES
from lit_narrative.circuits.report.findings import NAMED, name_patch
from lit_narrative.circuits.report.page import part
from lit_narrative.circuits.results import CircuitResults
from lit_narrative.errors import UserError
from lit_narrative.files import write_json, write_text
from lit_narrative.report.format import number
from lit_narrative.report.page import Section, fill_page, render

LEAD = (
    "The same analyses of two models, side by side, on the same rows. A difference between two checkpoints of one run "
    "is no more than that: another seed may differ as much."
)
Changes = Mapping[str, Any]


def write_comparison(old: str | Path, new: str | Path, page: str | Path, names: Sequence[str] = ("old", "new")) -> Path:
    """Compare two folders of analyses; write the page, and its figures beside it under the same name as ``.json``.

    Args:
        old: of the first model.
        new: of the second.
        page: the HTML file.
        names: what the two are called in figures.

    Raises:
        UserError: a folder cannot be read, they have nothing in common, the names are not two, or the page is called
            ``.json``.
    """
    if Path(page).suffix == ".json":
        raise UserError(f"the page '{page}' cannot end in .json: its figures get that name; call it .html")
    if len(set(names)) != 2 or not all(names):
        raise UserError(f"to compare takes two different names, not {', '.join(map(repr, names)) or 'none'}")
    common = find_common(CircuitResults.load(old), CircuitResults.load(new))
    changes = list_changes(common)
    text = _page(common, changes, names)
    write_json(Path(page).with_suffix(".json"), changes)
    return write_text(page, text)


def _page(common: Comparable, changes: Changes, names: Sequence[str]) -> str:
    figures = draw_figures(dict(zip(names, (common.old, common.new), strict=True)))
    done = [name for name in ANALYSES if any(figure.analysis == name for figure in figures)]
    parts = [
        part(name, common.new.manifest, list(SAID[name](changes)) if name in SAID else [], figures) for name in done
    ]
    title = f"What changed from {names[0]} to {names[1]}"
    return fill_page(title, LEAD, [_summary(common, changes, names), *parts], "comparison of circuits")


def _summary(common: Comparable, changes: Changes, names: Sequence[str]) -> Section:
    models = [(name, own.folder, own.manifest) for name, own in zip(names, (common.old, common.new), strict=True)]
    body = render(__name__, "comparison.html", changes=changes, names=names, models=models)
    return Section("what", "What is compared", body)


def _moved(rows: Sequence[Mapping[str, Any]], name: Callable[[Mapping[str, Any]], str]) -> str:
    told = (row for row in rows[:NAMED] if row["change"])
    return "; ".join(f"{name(row)} {number(row['old'], 2)} → {number(row['new'], 2)}" for row in told) or "none moved"


def _say_probes(changes: Changes) -> Iterator[str]:
    for split, rows in changes["probes"].items():
        named = _moved(rows, lambda row: f"{row['target']} ({row['site']} {row['layer']} at {row['place']})")
        yield f"{split}: scores that moved most: {named}."


def _say_patching(changes: Changes) -> Iterator[str]:
    for split, rows in changes["patching"].items():
        named = _moved(rows, _name_patch)
        yield f"{split}: recoveries that moved most: {named}."


def _name_patch(row: Mapping[str, Any]) -> str:
    return f"{row['direction']} {name_patch(row['site'], row['layer'], row['head'], row['place'])}"


def _say_overlap(what: str, found: Mapping[str, Any]) -> Iterator[str]:
    for split, shared in found.items():
        weak = "; one of the two is weak here, so this says little" if shared["weak"] else ""
        yield (
            f"{split}: {shared['shared']} of the top {shared['k']} {what} are the same in both (Jaccard "
            f"{number(shared['jaccard'], 2)}, by chance {number(shared['chance'], 2)}, p {number(shared['p_value'])}; "
            f"Spearman over all {what} {number(shared['spearman'], 2)}){weak}."
        )


def _say_ablation(changes: Changes) -> Iterator[str]:
    yield from _say_overlap("parts", changes["important_parts"])


def _say_attribution(changes: Changes) -> Iterator[str]:
    yield from _say_overlap("edges", changes["circuits"])
    for split, both in changes["faithfulness"].items():
        cpr, random, cmd = (
            f"{number(both['old'][name], 2)} → {number(both['new'][name], 2)}" for name in ("cpr", "random_cpr", "cmd")
        )
        yield f"{split}: CPR {cpr} (random edges {random}), CMD {cmd}."


def _say_sae(changes: Changes) -> Iterator[str]:
    for hook, found in changes["sae"].items():
        if "matched_cosine" in found:
            yield (
                f"{hook}: each model has an autoencoder of its own. Their features, matched one to one by direction, "
                f"have a mean cosine of {number(found['matched_cosine'], 2)} (with random directions "
                f"{number(found['matched_cosine_of_random'], 2)}; 1 is the same features)."
            )
        for split, kinds in found["kinds"].items():
            named = ", ".join(
                f"{kind.replace('_', '-')} {kinds['old'][kind]} → {count}" for kind, count in kinds["new"].items()
            )
            yield f"{hook} on {split}: {named}."


SAID = {
    "probes": _say_probes,
    "patching": _say_patching,
    "ablation": _say_ablation,
    "attribution": _say_attribution,
    "sae": _say_sae,
}
"""Findings about the changes of an analysis; of others there are figures only."""
