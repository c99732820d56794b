"""Figures of circuits: the strongest edges as a diagram and as a matrix, and how much of the model they explain."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lit_narrative.circuits.figures.canvas import around_zero, colors, heat, hide, name_of, sheet
from lit_narrative.circuits.graph import Graph, node_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lit_narrative.circuits.analyses.faithfulness import Faithfulness
    from lit_narrative.circuits.records.edges import EdgeScores, Pruned


TOP = 20
"""Edges of a diagram."""
Named = Mapping[tuple[str, str], float]


class Spot(NamedTuple):
    """Where a part stands in a diagram."""

    x: float
    y: float


def draw_edges(scores: "Mapping[str, EdgeScores]") -> "Figure":
    """The strongest edges of each model: as a diagram from the input up to the logits, and as a matrix.

    Args:
        scores: by model.
    """
    figure, panels = sheet(len(scores), 2, 4.6, (1.15, 1))
    for line, (model, table) in zip(panels, scores.items(), strict=True):
        edges, graph = table.named(TOP), table.graph
        diagram(line[0], graph, edges)
        line[0].set_title(name_of(model, f"the {len(edges)} strongest of {len(graph.edges)} edges"))
        sources, readers = _named(graph.sources, edges, 0), _named(graph.destinations, edges, 1)
        values = np.array([[edges.get((source, reader), np.nan) for reader in readers] for source in sources])
        heat(line[1], values, sources, readers, around_zero(values), "score (logits)")
        line[1].set_title("from (rows) to (columns)")
    return figure


def _named(parts: Sequence[str], edges: Named, side: int) -> list[str]:
    used = {edge[side] for edge in edges}
    return [part for part in parts if part in used]


def diagram(axes: "Axes", graph: Graph, edges: Named, thickest: float = 4.6) -> None:
    """Parts as boxes, the input below and the logits on top; edges as arrows, thicker where they are stronger."""
    from matplotlib.patches import FancyArrowPatch

    spots = place_parts(graph, edges)
    largest = max(map(abs, edges.values()), default=0.0) or 1.0
    for (source, reader), score in sorted(edges.items(), key=lambda item: abs(item[1])):  # the strongest on top
        start, end = spots[source], spots[node_of(reader)]
        # An arrow over several stages is bent around the boxes between.
        bend = 0.0 if abs(start.y - end.y) < 1.5 else 0.18 if start.x <= end.x else -0.18
        arrow = FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>",
            connectionstyle=f"arc3,rad={bend}",
            shrinkA=9,
            shrinkB=10,
            mutation_scale=9,
            color="#b2182b" if score > 0 else "#2166ac",
            linewidth=0.6 + (thickest - 0.6) * abs(score) / largest,
            alpha=0.75,
            zorder=1,
        )
        axes.add_patch(arrow)
    for part, spot in spots.items():
        box = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": "#444444"}
        axes.text(*spot, part, ha="center", va="center", fontsize=8, bbox=box, zorder=2)
    widest, tallest = (max((1.0, *(spot[side] for spot in spots.values()))) for side in (0, 1))
    axes.set_xlim(-0.7, widest + 0.7)
    axes.set_ylim(-0.6, tallest + 0.6)
    hide(axes)


def place_parts(graph: Graph, edges: Named) -> dict[str, Spot]:
    """Coordinates of the parts of some edges: later parts higher, those of a stage side by side in the middle.

    Args:
        graph: of the model.
        edges: scores by (source, destination).
    """
    used = {part for source, reader in edges for part in (source, node_of(reader))}
    stages = [[part for part in graph.sources[group.start :][: group.size] if part in used] for group in graph.writers]
    levels = [stage for stage in (*stages, ["logits"] if "logits" in used else []) if stage]
    widest = max((len(level) for level in levels), default=1)
    return {
        part: Spot(index + (widest - len(level)) / 2, float(height))
        for height, level in enumerate(levels)
        for index, part in enumerate(level)
    }


def draw_pruned(circuits: "Mapping[str, Pruned]") -> "Figure":
    """The edges that ACDC left, as diagrams without scores.

    Args:
        circuits: by split (and model).
    """
    columns = min(len(circuits), 2)
    figure, panels = sheet(-(-len(circuits) // columns), columns, 3.4)
    for axes in panels.flat[len(circuits) :]:
        hide(axes)
    for axes, (name, circuit) in zip(panels.flat, circuits.items(), strict=False):
        graph = circuit.graph
        names = [(graph.sources[source], graph.destinations[reader]) for source, reader in circuit.kept]
        diagram(axes, graph, dict.fromkeys(names, 1.0), thickest=1.0)
        axes.set_title(f"{name}: {len(names)} of {len(graph.edges)} edges")
    return figure


def draw_faithfulness(curves: "Mapping[str, Mapping[str, Faithfulness]]") -> "Figure":
    """Faithfulness and completeness of growing circuits, against random ones: a panel for each split.

    Args:
        curves: by model and split, of the same splits.
    """
    splits = list(next(iter(curves.values())))
    columns = min(len(splits), 3)
    figure, panels = sheet(-(-len(splits) // columns), columns, 2.8)
    for axes in panels.flat[len(splits) :]:
        hide(axes)
    for axes, split in zip(panels.flat, splits, strict=False):
        for color, (model, by_split) in zip(colors(len(curves)), curves.items(), strict=True):
            _curves(axes, by_split[split], color, model)
        areas = [
            name_of(model, f"CPR {by_split[split].cpr:.2f}, CMD {by_split[split].cmd:.2f}")
            for model, by_split in curves.items()
        ]
        axes.set_title("\n".join([split, *areas]))
        # Square roots: the circuits that matter have few edges, and a logarithm would have no place for none.
        axes.set_xscale("function", functions=(np.sqrt, np.square))
        axes.set_xticks([0, 0.02, 0.1, 0.2, 0.5, 1], ["0", ".02", ".1", ".2", ".5", "1"])
        axes.set_xlabel("share of edges")
        axes.axhspan(0, 1, color="#f2f2f2", zorder=0)
    figure.legend(*panels.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _curves(axes: "Axes", curve: "Faithfulness", color: str, model: str) -> None:
    shares = [point.fraction for point in curve.points]
    kinds = (("faithfulness", "-", color), ("completeness", ":", color), ("random", "--", "#888888"))
    for name, dashes, tone in kinds:
        values = [getattr(point, name) for point in curve.points]
        if None not in values:
            label = name_of(model, "random edges' faithfulness" if name == "random" else name)
            axes.plot(shares, values, dashes, color=tone, marker="o", markersize=3, label=label)
