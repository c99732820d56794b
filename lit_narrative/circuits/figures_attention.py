"""Figures of attention: where each head looks, between named places."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lit_narrative.circuits.attention import Attention
from lit_narrative.circuits.figures_canvas import heat, hide, sheet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEADS_SHOWN = 16
"""Of a larger model, the heads that look hardest at one place."""


def draw_attention(found: Mapping[str, Attention]) -> "Figure":
    """A heat map a head: from the place that looks (rows) to the one that is looked at (columns).

    Args:
        found: by model, of the same places; of two, the change from the first to the second is drawn.
    """
    first, *rest = found.values()
    heads = sharpest(first, HEADS_SHOWN)
    columns = min(4, max(len(heads), 1))
    size = len(dict.fromkeys(row.query for row in first.rows))
    figure, panels = sheet(-(-len(heads) // columns), columns, 0.9 + 0.17 * max(size, 4))
    for axes in panels.flat[len(heads) :]:
        hide(axes)
    for place, (axes, (layer, head)) in enumerate(zip(panels.flat, heads, strict=False)):
        values, names = first.grid(layer, head)
        for later in rest:
            values = later.grid(layer, head)[0] - values
        rows = names if place % columns == 0 else [""] * len(names)
        heat(axes, values, rows, names, (-1, 1) if rest else (0, 1), written=not rest)
        axes.set_title(f"a{layer}.h{head}" + (f", {' → '.join(found)}" if rest else ""))
    if rest:
        figure.colorbar(panels[0][0].images[0], ax=panels, label="change of the weight", fraction=0.02, pad=0.01)
    return figure


def sharpest(attention: Attention, count: int) -> list[tuple[int, int]]:
    """The heads (layer, head) with the largest weight between two different places, in their own order."""
    best: dict[tuple[int, int], float] = {}
    for row in attention.rows:
        if row.query != row.key:
            best[row.layer, row.head] = max(best.get((row.layer, row.head), 0.0), row.weight)
    return sorted(sorted(best, key=lambda head: -best[head])[:count])
