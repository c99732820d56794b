"""A chart of points by name, over two axes."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from lit_narrative.report.charts import rules, tick_text
from lit_narrative.report.svg import Axis, Element, drawing, node, padded
from lit_narrative.report.wording import number

_WIDTH, _HEIGHT, _LEFT, _FOOT, _LINE = 360.0, 210.0, 42.0, 34.0, 13.0


@dataclass(frozen=True, slots=True)
class Point:
    """A named point; ``interval`` is of its height."""

    name: str
    x: float
    y: float
    tone: str = "final"
    interval: tuple[float, float] | None = None


def scatter(title: str, points: Sequence[Point], x_label: str) -> Markup:
    """Draw points, at least one, with their names beside them; the height's unit is the title's."""
    x = Axis(*padded([point.x for point in points]), _LEFT, _WIDTH - 12)
    heights = [value for point in points for value in (point.y, *(point.interval or ()))]
    y = Axis(*padded(heights), _HEIGHT - _FOOT, 10)
    ticks, middle = x.ticks(), (x.start + x.end) / 2
    parts = [*rules(x, y), *(tick_text(x, y, tick, ticks) for tick in ticks)]
    parts.append(node("text", text=x_label, x=middle, y=_HEIGHT - 4, text_anchor="middle", class_="tick"))
    for point in points:
        parts += _drawn(point, x, y)
    parts += _names(points, x, y)
    words = ", ".join(f"{point.name} {number(point.y)} at {number(point.x, 1)}" for point in points)
    return drawing(_WIDTH, _HEIGHT, f"{title} against {x_label}: {words}", parts, "chart")


def _drawn(point: Point, x: Axis, y: Axis) -> list[Element]:
    at, parts = x(point.x), []
    if point.interval:
        low, high = point.interval
        parts.append(node("line", x1=at, x2=at, y1=y(low), y2=y(high), class_=f"range tone-{point.tone}"))
    tip = node("title", text=f"{point.name}: {number(point.y)} at {number(point.x, 2)}")
    return [*parts, node("circle", tip, cx=at, cy=y(point.y), r=5, class_=f"dot marked tone-{point.tone}")]


def _names(points: Sequence[Point], x: Axis, y: Axis) -> list[Element]:
    """Each point's name beside it, towards the middle, and lower where another would be in the way."""
    parts, taken = [], {True: 0.0, False: 0.0}
    for point in sorted(points, key=lambda point: y(point.y)):
        right = x(point.x) > (x.start + x.end) / 2
        place = taken[right] = max(y(point.y) + 4, taken[right] + _LINE)
        at, anchor = (x(point.x) - 9, "end") if right else (x(point.x) + 9, "start")
        parts.append(node("text", text=point.name, x=at, y=place, text_anchor=anchor, class_="name"))
    return parts
