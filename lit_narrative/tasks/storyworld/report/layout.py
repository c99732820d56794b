"""Layered drawing of a directed graph (Sugiyama's steps): layers, order within a layer, positions.

Every edge that leads down is cut into pieces of one layer each by helper points, so that it bends around what lies
between. Edges that lead up or stay in a layer are left to the caller to draw around the outside.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

Edge = tuple[int, int]
Point = tuple[float, float]
_SWEEPS = 6
_HELPER = 0.4
"""Columns that an edge takes up where it passes between vertices."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything lies.

    Attributes:
        positions: for each vertex, its middle as (column, layer); the drawing's left edge is column 0.
        bends: for each downward edge, by its index, the points between its ends.
        upward: indices of the edges that do not lead down.
        width: of the drawing, in columns.
        layers: number of layers.
    """

    positions: tuple[Point, ...]
    bends: dict[int, tuple[Point, ...]]
    upward: frozenset[int]
    width: float
    layers: int


def layered(sizes: Sequence[float], edges: Sequence[Edge], row: int = 3) -> Layout:
    """Lay out vertices with vertex 0 on top.

    Vertices that cannot be reached from 0 come below all others, ``row`` to a layer.

    Args:
        sizes: width of each vertex in columns; at least one vertex.
        edges: (from, to); parallel edges and loops are fine.
        row: how many unreachable vertices share a layer.
    """
    count = len(sizes)
    upward = _upward(count, edges)
    layers = _layers(count, edges, upward, row)
    down = [i for i, (start, end) in enumerate(edges) if i not in upward and layers[start] < layers[end]]
    chains, levels = _chains(edges, down, layers)
    links = [pair for chain in chains.values() for pair in pairwise(chain)]
    # Helper points take part in the ordering as vertices do, which is what makes edges bend around boxes.
    widths = [*sizes, *[_HELPER] * (len(levels) - count)]
    columns, width = _columns(_ordered(levels, links), links, widths)
    positions = [(column, float(level)) for column, level in zip(columns, levels, strict=True)]
    bends = {index: tuple(positions[vertex] for vertex in chain[1:-1]) for index, chain in chains.items()}
    around = frozenset(range(len(edges))) - frozenset(down)
    return Layout(tuple(positions[:count]), bends, around, width, max(levels) + 1)


def reachable(count: int, edges: Sequence[Edge]) -> set[int]:
    """Return the vertices that can be reached from vertex 0, itself included."""
    after = _neighbours(edges)[1]
    seen, waiting = {0} if count else set(), [0] if count else []
    while waiting:
        fresh = set(after[waiting.pop()]) - seen
        seen |= fresh
        waiting += fresh
    return seen


def _upward(count: int, edges: Sequence[Edge]) -> set[int]:
    """Return the edges that close a cycle, as a depth-first walk from 0 meets them."""
    outgoing: dict[int, list[int]] = defaultdict(list)
    for index, (start, _) in enumerate(edges):
        outgoing[start].append(index)
    closing: set[int] = set()
    state = [0] * count  # 0 not met, 1 on the way, 2 done

    def visit(vertex: int) -> None:
        state[vertex] = 1
        for index in outgoing[vertex]:
            end = edges[index][1]
            if state[end] == 1:
                closing.add(index)
            elif state[end] == 0:
                visit(end)
        state[vertex] = 2

    for vertex in range(count):
        if state[vertex] == 0:
            visit(vertex)
    return closing


def _layers(count: int, edges: Sequence[Edge], upward: set[int], row: int) -> list[int]:
    """Put each reachable vertex below all that lead to it, and the others at the foot."""
    reached = reachable(count, edges)
    layers = [0] * count
    # Longest path by relaxation: after at most `count` rounds no layer moves, for the edges left have no cycle.
    for _ in range(count):
        for index, (start, end) in enumerate(edges):
            if index not in upward and start in reached:
                layers[end] = max(layers[end], layers[start] + 1)
    foot = max(layers[vertex] for vertex in reached) + 1
    for position, vertex in enumerate(sorted(set(range(count)) - reached)):
        layers[vertex] = foot + position // row
    return layers


def _chains(edges: Sequence[Edge], down: Sequence[int], layers: list[int]) -> tuple[dict[int, list[int]], list[int]]:
    """Return for each downward edge its vertices with helper points between, and the layer of every vertex."""
    levels = list(layers)
    chains = {}
    for index in down:
        start, end = edges[index]
        helpers = range(len(levels), len(levels) + layers[end] - layers[start] - 1)
        levels += range(layers[start] + 1, layers[end])
        chains[index] = [start, *helpers, end]
    return chains, levels


def _ordered(levels: Sequence[int], links: Sequence[Edge]) -> list[list[int]]:
    """Order each layer by the mean position of its neighbours, sweeping down and up."""
    order: list[list[int]] = [[] for _ in range(max(levels) + 1)]
    for vertex, level in enumerate(levels):
        order[level].append(vertex)
    above, below = _neighbours(links)
    for sweep in range(_SWEEPS):
        near = above if sweep % 2 == 0 else below
        for layer in order if sweep % 2 == 0 else reversed(order):
            # Relative to the layer, so that positions in layers of different sizes compare.
            position = {vertex: index / len(row) for row in order for index, vertex in enumerate(row)}
            # A vertex without neighbours on that side stays where it is.
            wish = {vertex: fmean([position[other] for other in near[vertex] or [vertex]]) for vertex in layer}
            layer.sort(key=wish.__getitem__)
    return order


def _neighbours(links: Sequence[Edge]) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    above: dict[int, list[int]] = defaultdict(list)
    below: dict[int, list[int]] = defaultdict(list)
    for start, end in links:
        above[end].append(start)
        below[start].append(end)
    return above, below


def _columns(
    order: Sequence[Sequence[int]], links: Sequence[Edge], widths: Sequence[float]
) -> tuple[list[float], float]:
    """Give each vertex a column near its neighbours', keeping order and distance in its layer; also the width."""
    columns = [0.0] * len(widths)
    above, below = _neighbours(links)
    for _ in range(_SWEEPS):
        for row in order:
            wished = [fmean([columns[other] for other in [*above[v], *below[v]] or [v]]) for v in row]
            for vertex, column in zip(row, _spread(wished, [widths[vertex] for vertex in row]), strict=True):
                columns[vertex] = column
    # Last, since it needs the final middle of the layers with edges.
    _centre_lonely(order, {vertex for link in links for vertex in link}, columns)
    # The drawing begins at column 0 whatever the sweeps did.
    left = min(column - width / 2 for column, width in zip(columns, widths, strict=True))
    right = max(column + width / 2 for column, width in zip(columns, widths, strict=True))
    return [column - left for column in columns], right - left


def _centre_lonely(order: Sequence[Sequence[int]], linked: set[int], columns: list[float]) -> None:
    """Move the layers without any edge under the middle of the others."""
    among = [columns[vertex] for vertex in linked] or [0.0]
    middle = (min(among) + max(among)) / 2
    for row in order:
        if row and not linked & set(row):
            shift = middle - (columns[row[0]] + columns[row[-1]]) / 2
            for vertex in row:
                columns[vertex] += shift


def _spread(wished: Sequence[float], widths: Sequence[float]) -> list[float]:
    """Move positions apart, in their order, until none overlap; their mean stays."""
    placed: list[float] = []
    for index, wish in enumerate(wished):
        room = placed[-1] + (widths[index - 1] + widths[index]) / 2 if placed else wish
        placed.append(max(wish, room))
    # Pushing apart only ever moves to the right; shifting all back keeps the layer under its parents.
    drift = fmean(placed) - fmean(wished)
    return [position - drift for position in placed]
