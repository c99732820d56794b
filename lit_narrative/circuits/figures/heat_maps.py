"""Heat maps: recovery by activation patching, and attention between named positions."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lit_narrative.circuits.bridge import HEADS
from lit_narrative.circuits.figures.canvas import heat, hide, name_of, sheet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lit_narrative.circuits.records.attention import Attention
    from lit_narrative.circuits.records.patching import Patching

HEADS_SHOWN = 16
"""Of a larger model, the heads that look hardest at one position."""


def draw_patching(tables: "Mapping[str, Patching]") -> "Figure":
    """A heat map for each direction and site: layers by named positions, or by heads.

    Args:
        tables: by model, of the same pairs.
    """
    first = next(iter(tables.values()))
    sites, directions = list(dict.fromkeys(patch.site for patch in first.patches)), first.directions
    grids = {site: first.grid(site, directions[0]) for site in sites}
    widths = [max(len(columns), 5) for _, _, columns in grids.values()]
    layers = max(len(grid[1]) for grid in grids.values())
    names = [name for _, _, columns in grids.values() for name in columns]
    figure, panels = sheet(
        len(directions) * len(tables),
        len(sites),
        0.8 + 0.07 * max(map(len, names)) + 0.24 * max(layers, 2),
        widths,
    )
    lines = [(direction, model) for direction in directions for model in tables]
    for line, (direction, model) in zip(panels, lines, strict=True):
        for axes, site in zip(line, sites, strict=True):
            values, rows, columns = tables[model].grid(site, direction)
            if not values.size:
                hide(axes)
                continue
            # Layer 0 at the bottom, as the stream flows upwards in the diagrams too.
            heat(axes, values[::-1], [str(layer) for layer in rows[::-1]], _from_the_end(columns), (-1, 1))
            axes.set_title(f"{direction}: {site}" + (" (heads)" if site in HEADS else ""))
        line[0].set_ylabel(name_of(model, "layer"))
    mapped = panels[0][0].images[0]
    figure.colorbar(mapped, ax=panels, label="recovery", fraction=0.02, pad=0.01, extend="both")
    return figure


def _from_the_end(columns: list[str]) -> list[str]:
    """Names of positions; columns that have only numbers are counted from the end, where the prompts are aligned."""
    if not all(name.isdigit() for name in columns):
        return columns
    count = len(columns)
    return ["answer" if index == count - 1 else str(index + 1 - count).replace("-", "−") for index in range(count)]


def draw_attention(tables: "Mapping[str, Attention]") -> "Figure":
    """A heat map a head: from the position that looks (rows) to the one that is looked at (columns).

    Args:
        tables: by model, of the same positions; of two, the change from the first to the second is drawn.
    """
    first, *rest = tables.values()
    heads = sharpest(first, HEADS_SHOWN)
    columns = min(4, max(len(heads), 1))
    size = len(dict.fromkeys(row.query for row in first.rows))
    figure, panels = sheet(-(-len(heads) // columns), columns, 0.9 + 0.17 * max(size, 4))
    for axes in panels.flat[len(heads) :]:
        hide(axes)
    for index, (axes, (layer, head)) in enumerate(zip(panels.flat, heads, strict=False)):
        values, names = first.grid(layer, head)
        for later in rest:  # weights of two models lie close: their difference is what can be seen
            values = later.grid(layer, head)[0] - values
        rows = names if index % columns == 0 else [""] * len(names)
        heat(axes, values, rows, names, (-1, 1) if rest else (0, 1), written=not rest)
        axes.set_title(f"a{layer}.h{head}" + (f", {' → '.join(tables)}" if rest else ""))
    if rest:
        figure.colorbar(panels[0][0].images[0], ax=panels, label="change of the weight", fraction=0.02, pad=0.01)
    return figure


def sharpest(attention: "Attention", count: int) -> list[tuple[int, int]]:
    """The heads (layer, head) with the largest weight between two different positions, in their own order."""
    best: dict[tuple[int, int], float] = {}
    for row in attention.rows:
        if row.query != row.key:
            best[row.layer, row.head] = max(best.get((row.layer, row.head), 0.0), row.weight)
    return sorted(sorted(best, key=lambda head: -best[head])[:count])
