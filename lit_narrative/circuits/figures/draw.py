"""All figures of one model's analyses, or of two models' side by side, as PNG."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lit_narrative.circuits.figures.canvas import default_style, to_png
from lit_narrative.circuits.figures.edges import draw_edges, draw_faithfulness, draw_pruned
from lit_narrative.circuits.figures.features import draw_patterns, draw_rates
from lit_narrative.circuits.figures.heat_maps import draw_attention, draw_patching
from lit_narrative.circuits.figures.parts import draw_ablation, draw_overlaps, draw_parts
from lit_narrative.circuits.figures.probes import draw_lens, draw_probes
from lit_narrative.circuits.results import CircuitResults
from lit_narrative.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


Models = Mapping[str, CircuitResults]
FEW = 3
"""Labels from which a kind of patterns gets a figure; yes-or-no ones are in the table only."""


class Drawn(NamedTuple):
    """A figure: the analysis it belongs to, a name for its file, what it shows, and the PNG."""

    analysis: str
    name: str
    title: str
    png: bytes

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, as the PNG's header has them."""
        return int.from_bytes(self.png[16:20]), int.from_bytes(self.png[20:24])


class _Sketch(NamedTuple):
    analysis: str
    name: str
    title: str
    draw: Callable[[], "Figure"]


def draw_figures(models: Models) -> list[Drawn]:
    """Draw what all models have in common, one after the other.

    Args:
        models: by the name that panels give them; a single model needs none (an empty text).
    """
    sketches = [
        sketch
        for plan in (_probes, _patching, _parts, _edges, _pruned, _lens, _attention, _features)
        for sketch in plan(models)
    ]
    with default_style():
        return [Drawn(*sketch[:3], to_png(sketch.draw())) for sketch in sketches]


def write_figures(figures: Iterable[Drawn], folder: str | Path) -> None:
    """Write figures as ``<name>.png`` into a folder, which is made."""
    for figure in figures:
        write_bytes(Path(folder, re.sub(r"[^\w.-]", "_", figure.name) + ".png"), figure.png)


def _shared(models: Models, table: str) -> list[str]:
    """Splits (or hooks) of which every model has this table."""
    first, *rest = (getattr(own, table) for own in models.values())
    return [name for name in first if all(name in other for other in rest)]


def _of(models: Models, table: str, name: str) -> dict[str, Any]:
    return {model: getattr(own, table)[name] for model, own in models.items()}


def _probes(models: Models) -> Iterator[_Sketch]:
    found = {model: own.probes for model, own in models.items() if own.probes is not None}
    if len(found) == len(models):
        for split in dict.fromkeys(row.split for own in found.values() for row in own.rows):
            title = f"Probes on {split}"
            yield _Sketch("probes", f"probes_{split}", title, lambda split=split: draw_probes(found, split))  # type: ignore[misc]


def _patching(models: Models) -> Iterator[_Sketch]:
    for split in _shared(models, "patching"):
        found, title = _of(models, "patching", split), f"Recovery by patch on {split}"
        yield _Sketch("patching", f"patching_{split}", title, lambda found=found: draw_patching(found))  # type: ignore[misc]


def _parts(models: Models) -> Iterator[_Sketch]:
    found = {model: own.ablation for model, own in models.items() if own.ablation is not None}
    if len(found) == len(models):
        yield _Sketch("ablation", "ablation", "What taking each part out costs", lambda: draw_ablation(found))
        title = "By layer, and whether splits rely on the same parts"
        yield _Sketch("ablation", "ablation_overlap", title, lambda: draw_overlaps(found))


def _edges(models: Models) -> Iterator[_Sketch]:
    for split in _shared(models, "edges"):
        found, title = _of(models, "edges", split), f"Strongest edges on {split}"
        yield _Sketch("attribution", f"edges_{split}", title, lambda found=found: draw_edges(found))  # type: ignore[misc]
    if nodes := _by_part(models, "nodes"):
        title = "Scores of parts, summed over places"
        yield _Sketch("attribution", "nodes", title, lambda: draw_parts(nodes, "score (logits)"))
    if splits := _shared(models, "faithfulness"):
        curves = {model: {split: own.faithfulness[split] for split in splits} for model, own in models.items()}
        title = "Faithfulness of growing circuits"
        yield _Sketch("attribution", "faithfulness", title, lambda: draw_faithfulness(curves))


def _pruned(models: Models) -> Iterator[_Sketch]:
    found = {
        f"{split} ({model})" if model else split: own.pruned[split]
        for split in _shared(models, "pruned")
        for model, own in models.items()
    }
    if found:
        yield _Sketch("acdc", "acdc", "What ACDC leaves", lambda: draw_pruned(found))


def _by_part(models: Models, table: str) -> dict[str, dict[str, float]]:
    """Totals by split (and model) and part."""
    return {
        f"{split} ({model})" if model else split: dict(getattr(own, table)[split].ranked())
        for split in _shared(models, table)
        for model, own in models.items()
    }


def _lens(models: Models) -> Iterator[_Sketch]:
    if splits := _shared(models, "lens"):
        found = {model: {split: own.lens[split] for split in splits} for model, own in models.items()}
        yield _Sketch("lens", "lens", "What each layer would answer", lambda: draw_lens(found))
    if direct := _by_part(models, "direct"):
        title = "What each part adds to the answer's lead directly"
        yield _Sketch("lens", "direct", title, lambda: draw_parts(direct, "mean contribution (logits)"))


def _attention(models: Models) -> Iterator[_Sketch]:
    for split in _shared(models, "attention"):
        found, title = _of(models, "attention", split), f"Where heads look on {split}"
        yield _Sketch("attention", f"attention_{split}", title, lambda found=found: draw_attention(found))  # type: ignore[misc]


def _features(models: Models) -> Iterator[_Sketch]:
    for hook in _shared(models, "features"):
        found, title = _of(models, "features", hook), f"Firing rates of the features of {hook}"
        yield _Sketch("sae", f"features_{hook}", title, lambda found=found: draw_rates(found))  # type: ignore[misc]
        if len(models) == 1:  # features of two models have no numbers in common
            yield from _patterns(next(iter(models.values())), hook)


def _patterns(results: CircuitResults, hook: str) -> Iterator[_Sketch]:
    rows = [row for row in results.patterns.get(hook, ()) if row.split == results.manifest.get("home")]
    for kind in dict.fromkeys(row.kind for row in rows):
        own, title = [row for row in rows if row.kind == kind], f"Which features tell {kind} apart at home ({hook})"
        if len({row.label for row in own}) >= FEW:
            yield _Sketch("sae", f"patterns_{kind}_{hook}", title, lambda own=own: draw_patterns(own))  # type: ignore[misc]
