"""Figures of attention: where each head looks, between named places."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lit_narrative.circuits.attention import Attention
from lit_narrative.circuits.figures_canvas import heat, hide, name_of, sheet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEADS_SHOWN = 16
"""Of a larger model, the heads that look hardest at one place."""


def draw_attention(found: Mapping[str, Attention]) -> "Figure":
    """A heat map a head: from the place that looks (rows) to the one that is looked at (columns).

    Args:
        found: by model, of the same places.
    """
    first = next(iter(found.values()))
    heads = sharpest(first, HEADS_SHOWN)
    columns = min(4, max(len(heads), 1))
    lines = -(-len(heads) // columns)
    size = len(dict.fromkeys(row.query for row in first.rows))
    figure, panels = sheet(lines * len(found), columns, 0.9 + 0.17 * max(size, 4))
    for turn, (model, own) in enumerate(found.items()):
        spots = list(panels[turn * lines : (turn + 1) * lines].flat)
        for axes in spots[len(heads) :]:
            hide(axes)
        for place, (axes, (layer, head)) in enumerate(zip(spots, heads, strict=False)):
            values, names = own.grid(layer, head)
            heat(axes, values, names if place % columns == 0 else [""] * len(names), names, (0, 1))
            axes.set_title(name_of(model, f"a{layer}.h{head}"))
    return figure


def sharpest(attention: Attention, count: int) -> list[tuple[int, int]]:
    """The heads (layer, head) with the largest weight between two different places, in their own order."""
    best: dict[tuple[int, int], float] = {}
    for row in attention.rows:
        if row.query != row.key:
            best[row.layer, row.head] = max(best.get((row.layer, row.head), 0.0), row.weight)
    return sorted(sorted(best, key=lambda head: -best[head])[:count])
