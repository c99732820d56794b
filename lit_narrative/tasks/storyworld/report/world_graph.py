"""A storyworld drawn as a graph: encounters are boxes, options are arrows between them."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from lit_narrative.report.format import clip
from lit_narrative.report.svg import Element, drawing, node
from lit_narrative.tasks.storyworld.expressions import describe
from lit_narrative.tasks.storyworld.report.layout import Layout, layered
from lit_narrative.tasks.storyworld.simulator.graph import is_terminal, offered, outline, reachable
from lit_narrative.tasks.storyworld.simulator.plan import DANGLING, END, IMPLICIT, Plan
from lit_narrative.tasks.storyworld.world import Effect, Encounter, Option, SpoolEffect, World

MAX_ENCOUNTERS = 20
"""Encounters drawn; the page says how many are left out."""
MAX_OPTIONS = 6
"""Options drawn of one encounter."""
_COLUMN, _LAYER, _BOX_W, _BOX_H, _STUB = 150.0, 88.0, 132.0, 46.0, 0.45
_MARGIN = 16.0
_MOST_LETTERS = 16
"""Of a title that fit in its box, the mark included."""
# In a notebook there is no style sheet, and SVG fills shapes with black; a page's style sheet wins over these.
_LINE = {"fill": "none", "stroke": "currentColor"}
_INK = {"fill": "currentColor"}


@dataclass(frozen=True, slots=True)
class Vertex:
    """A box, or the stub of an option that leads to none.

    Attributes:
        kind: of a box, ``encounter`` or ``ending``, with `` unreached`` where no play comes; of a stub, ``stop`` where
            the story ends, ``missing`` where the option leads to nothing.
        title: of a box, which shows as much of it as fits; a stub has none.
        line: beneath the title.
        tip: shown when pointed at.
    """

    kind: str
    title: str
    line: str = ""
    tip: str = ""


@dataclass(frozen=True, slots=True)
class Arrow:
    """A way from one vertex to another: an option, or what plays made of several.

    Attributes:
        start: where it begins.
        end: where it leads.
        gated: whether it is drawn as locked.
        tip: shown when pointed at.
        width: of the line, in units; 0 for the usual one.
    """

    start: int
    end: int
    gated: bool
    tip: str
    width: float = 0.0


def graph_of(plan: Plan) -> tuple[list[Vertex], list[Arrow]]:
    """Return the boxes, stubs and arrows of a world's first encounters, the start first.

    What cannot be reached has no arrows, so that the eye can follow those that matter.
    """
    shown = plan.world.encounters[:MAX_ENCOUNTERS]
    last = {i for i in range(len(plan.scenes)) if is_terminal(plan, i)}
    reached = reachable(plan)
    vertices = [_box(encounter, i in last, i in reached) for i, encounter in enumerate(shown)]
    arrows: list[Arrow] = []
    for position in range(len(shown)):
        # The options of an ending lead nowhere that matters, and those of an unreached box would hide the rest.
        if position in last or position not in reached:
            continue
        stubs: dict[Vertex, int] = {}
        for option, choice in offered(plan, position)[:MAX_OPTIONS]:
            end = choice.target
            if not 0 <= end < len(shown):
                stub = _stub(plan, option, end)
                # One stub a kind of end and encounter: many options that end the story share it.
                end = stubs.setdefault(stub, len(vertices))
                vertices += [stub] if end == len(vertices) else []
            arrows.append(Arrow(position, end, bool(option.gates or option.performable), describe_option(option)))
    return vertices, arrows


def leads_to(plan: Plan, option: Option, target: int) -> str:
    """Say in words where an option leads, ``target`` being the plan's word on it."""
    if target == END:
        return "ends the story"
    if target == IMPLICIT:
        return "does not say where it leads"
    if target == DANGLING:
        named = next(reaction.next_encounter or "" for reaction in option.reactions if reaction.leads)
        return f"leads to {clip(named, 60)}, which does not exist"
    if target == len(plan.world.encounters):
        return "leaves what follows to selection"
    return f"leads to {clip(plan.world.encounters[target].id, 60)}"


def describe_option(option: Option) -> str:
    """Say in words what an option needs and does."""
    parts = [f"option: {clip(option.text or option.id, 90)}"]
    if option.gates or option.performable:
        needs = [clip(describe(gate), 60) for gate in (*option.gates, *option.performable)[:6]]
        parts.append(f"only if {' and '.join(needs)}")
    effects = [effect for reaction in option.reactions for effect in reaction.effects][:6]
    if effects:
        parts.append("changes " + ", ".join(map(_change, effects)))
    return "; ".join(parts)


def _change(effect: Effect | SpoolEffect) -> str:
    if isinstance(effect, SpoolEffect):
        return f"spool {clip(effect.spool, 30)}"
    if effect.value is None:
        return f"{clip(effect.variable, 30)} by {effect.change:+g}"
    return f"{clip(effect.variable, 30)} ({effect.op} {clip(describe(effect.value), 60)})"


def draw_world(world: World, label: str) -> Markup:
    """Draw a world that has encounters; ``label`` names the drawing for those who cannot see it."""
    return drawn(*graph_of(outline(world)), label)


def drawn(vertices: Sequence[Vertex], arrows: Sequence[Arrow], label: str) -> Markup:
    """Draw vertices, at least one, the first of them the start, with the arrows between them."""
    edges = [(arrow.start, arrow.end) for arrow in arrows]
    layout = layered([1.0 if vertex.title else _STUB for vertex in vertices], edges)
    around = len({arrows[index].end for index in layout.upward})
    width = 2 * _MARGIN + layout.width * _COLUMN + (14.0 + 8 * around if around else 0)
    height = 2 * _MARGIN + (layout.layers - 1) * _LAYER + _BOX_H
    parts = _draw_arrows(arrows, layout)
    parts += [_draw_vertex(vertex, layout.positions[i], i == 0) for i, vertex in enumerate(vertices)]
    return drawing(width, height, label, parts, "world", scale=1.1)


def _box(encounter: Encounter, ending: bool, reached: bool) -> Vertex:
    kind = ("ending" if ending else "encounter") + ("" if reached else " unreached")
    notes = (" (ending)" if ending else "") + ("" if reached else " (cannot be reached)")
    tip = f"{clip(encounter.id, 60)}: {clip(encounter.text, 200)}{notes}"
    return Vertex(kind, encounter.id, clip(encounter.text, 24), tip)


def _stub(plan: Plan, option: Option, target: int) -> Vertex:
    known = target == END or target >= 0
    return Vertex("stop" if known else "missing", "", tip=leads_to(plan, option, target))


def _centre(position: tuple[float, float]) -> tuple[float, float]:
    column, layer = position
    return _MARGIN + column * _COLUMN, _MARGIN + _BOX_H / 2 + layer * _LAYER


def _draw_vertex(vertex: Vertex, position: tuple[float, float], start: bool) -> Element:
    x, y = _centre(position)
    tip = node("title", text=vertex.tip)
    if vertex.kind == "stop":
        return node("g", tip, node("rect", x=x - 5, y=y - 23, width=10, height=10, **_INK), class_="stop")
    if vertex.kind == "missing":
        cross = f"M{x - 6:.1f} {y - 23:.1f}l12 12m0 -12l-12 12"
        return node("g", tip, node("path", d=cross, **_LINE), class_="missing")
    return node("g", tip, *_box_parts(vertex, x, y, start), class_=f"{vertex.kind}{' start' if start else ''}")


def _box_parts(vertex: Vertex, x: float, y: float, start: bool) -> list[Element]:
    left, top = x - _BOX_W / 2, y - _BOX_H / 2
    parts = [node("rect", x=left, y=top, width=_BOX_W, height=_BOX_H, rx=8, **_LINE)]
    if vertex.kind.startswith("ending"):
        parts.append(
            node("rect", x=left + 3, y=top + 3, width=_BOX_W - 6, height=_BOX_H - 6, rx=6, class_="inner", **_LINE)
        )
    mark = "▸ " if start else "■ " if vertex.kind.startswith("ending") else ""
    title = clip(mark + vertex.title, _MOST_LETTERS)
    parts.append(node("text", text=title, x=x, y=y - 2, text_anchor="middle", class_="id", font_size=12, **_INK))
    parts.append(
        node("text", text=vertex.line, x=x, y=y + 13, text_anchor="middle", class_="line", font_size=9, **_INK)
    )
    return parts


def _draw_arrows(arrows: Sequence[Arrow], layout: Layout) -> list[Element]:
    starts = _ports(arrows, layout, leaving=True)
    ends = _ports(arrows, layout, leaving=False)
    lanes: dict[int, int] = {}
    drawn = []
    for index, arrow in enumerate(arrows):
        if index in layout.upward:
            # Arrows back to the same box share a lane; a loop keeps close to its box.
            lane = 0 if arrow.start == arrow.end else lanes.setdefault(arrow.end, len(lanes))
            line, tip = _around(layout, arrow, lane)
        else:
            line, tip = _downward(layout, index, arrow, starts[index], ends[index])
        words = node("title", text=arrow.tip)
        # The wide invisible path is there to be pointed at: a line of 1.4 units is hard to hit.
        style = f"stroke-width:{arrow.width:.1f}" if arrow.width else ""
        ways = [
            node("path", d=line, class_="hit", fill="none"),
            node("path", d=line, class_="way", style=style, **_LINE),
        ]
        drawn.append(node("g", words, *ways, tip, class_="option gated" if arrow.gated else "option"))
    return drawn


def _ports(arrows: Sequence[Arrow], layout: Layout, *, leaving: bool) -> dict[int, float]:
    """Spread the arrows at each vertex, so that parallel options can be told apart: a shift in units for each."""
    at: dict[int, list[int]] = defaultdict(list)
    for index, arrow in enumerate(arrows):
        if index not in layout.upward:
            at[arrow.start if leaving else arrow.end].append(index)
    shifts = {}
    for indices in at.values():
        far = {
            i: layout.bends[i] or (layout.positions[arrows[i].end if leaving else arrows[i].start],) for i in indices
        }
        # By where they lead, so that the arrows of a box do not cross beside it.
        ordered = sorted(indices, key=lambda i: far[i][0 if leaving else -1][0])
        # Many arrows squeeze together rather than leave the side of the box.
        gap = min(16.0, 0.7 * _BOX_W / len(ordered))
        shifts.update({i: (rank - (len(ordered) - 1) / 2) * gap for rank, i in enumerate(ordered)})
    return shifts


def _downward(layout: Layout, index: int, arrow: Arrow, leave: float, arrive: float) -> tuple[str, Element]:
    x0, y0 = _centre(layout.positions[arrow.start])
    x1, y1 = _centre(layout.positions[arrow.end])
    points = [(x0 + leave, y0 + _BOX_H / 2), *map(_centre, layout.bends[index]), (x1 + arrive, y1 - _BOX_H / 2 - 6)]
    line = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    for (ax, ay), (bx, by) in pairwise(points):
        # Control points straight below and above the ends: pieces of a bent arrow join without a corner.
        half = (by - ay) / 2
        line += f"C{ax:.1f} {ay + half:.1f} {bx:.1f} {by - half:.1f} {bx:.1f} {by:.1f}"
    x, y = points[-1]
    return line, _head(x, y, 0, 6)


def _around(layout: Layout, arrow: Arrow, lane: int) -> tuple[str, Element]:
    """Lead an arrow that goes up, sideways or back to itself past the right-hand side of what lies between."""
    x0, y0 = _centre(layout.positions[arrow.start])
    x1, y1 = _centre(layout.positions[arrow.end])
    right = _right_of(layout, arrow) + 8.0 + 8.0 * lane
    x0, x1, y0, y1 = x0 + _BOX_W / 2, x1 + _BOX_W / 2 + 6, y0 + 8, y1 - 8
    bend = min(10.0, abs(y0 - y1) / 2) * (1 if y0 >= y1 else -1)
    line = (
        f"M{x0:.1f} {y0:.1f}C{right:.1f} {y0:.1f} {right:.1f} {y0:.1f} {right:.1f} {y0 - bend:.1f}"
        f"L{right:.1f} {y1 + bend:.1f}C{right:.1f} {y1:.1f} {right:.1f} {y1:.1f} {x1:.1f} {y1:.1f}"
    )
    return line, _head(x1, y1, -6, 0)


def _right_of(layout: Layout, arrow: Arrow) -> float:
    """Return the right-hand side of the boxes in the layers that an arrow passes; a loop passes its box alone."""
    start, end = layout.positions[arrow.start], layout.positions[arrow.end]
    top, bottom = sorted((start[1], end[1]))
    passed = (
        [start]
        if arrow.start == arrow.end
        else [position for position in layout.positions if top <= position[1] <= bottom]
    )
    return max(_centre(position)[0] for position in passed) + _BOX_W / 2


def _head(x: float, y: float, dx: float, dy: float) -> Element:
    """Draw an arrow head whose base is at (x, y) and whose tip lies (dx, dy) further."""
    side = (abs(dy) * 0.6, abs(dx) * 0.6)
    head = f"M{x - side[0]:.1f} {y - side[1]:.1f}L{x + dx:.1f} {y + dy:.1f}L{x + side[0]:.1f} {y + side[1]:.1f}Z"
    return node("path", d=head, class_="head", **_INK)
