"""Figures of activation patching: how far each patch takes a run towards the other prompt's."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, get_args

from lit_narrative.circuits.figures_canvas import heat, hide, name_of, sheet
from lit_narrative.circuits.patches import HEADS, Direction, Patching

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
