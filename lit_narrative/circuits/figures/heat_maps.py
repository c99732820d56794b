"""Figures of activation patching: how far each patch takes a run towards the other prompt's."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, get_args

from lit_narrative.circuits.analyses.attention import Attention
from lit_narrative.circuits.analyses.patching import Direction, Patching
from lit_narrative.circuits.bridge import HEADS
from lit_narrative.circuits.figures.canvas import heat, hide, name_of, sheet

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_patching(found: Mapping[str, Patching]) -> "Figure":
    """A heat map for each direction and site: layers by named places, or by heads.

    Args:
        found: by model, of the same pairs.
    """
    first = next(iter(found.values()))
    sites = list(dict.fromkeys(patch.site for patch in first.patches))
    directions = [name for name in get_args(Direction) if any(patch.direction == name for patch in first.patches)]
    grids = {site: first.grid(site, directions[0]) for site in sites}
    widths = [max(len(columns), 5) for _, _, columns in grids.values()]
    layers = max(len(grid[1]) for grid in grids.values())
    names = [name for _, _, columns in grids.values() for name in columns]
    figure, panels = sheet(
        len(directions) * len(found),
        len(sites),
        0.8 + 0.07 * max(map(len, names)) + 0.24 * max(layers, 2),
        widths,
    )
    lines = [(direction, model) for direction in directions for model in found]
    for line, (direction, model) in zip(panels, lines, strict=True):
        for axes, site in zip(line, sites, strict=True):
            values, own_layers, columns = found[model].grid(site, direction)
            if not values.size:
                hide(axes)
                continue
            heat(axes, values[::-1], [str(layer) for layer in own_layers[::-1]], _places(columns), (-1, 1))
            axes.set_title(f"{direction}: {site}" + (" (heads)" if site in HEADS else ""))
        line[0].set_ylabel(name_of(model, "layer"))
    mapped = panels[0][0].images[0]
    figure.colorbar(mapped, ax=panels, label="recovery", fraction=0.02, pad=0.01, extend="both")
    return figure


def _places(columns: list[str]) -> list[str]:
    """Names of places; columns that have only numbers are counted from the end, where the prompts are aligned."""
    if not all(name.isdigit() for name in columns):
        return columns
    count = len(columns)
    return ["answer" if place == count - 1 else str(place + 1 - count).replace("-", "−") for place in range(count)]


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
