"""Small charts as inline SVG: lines over steps, a histogram, dots with intervals, named points in a plane.

Each returns finished markup that follows the page's colours and says in its label what it shows. A tone is one of the
page's colour roles: ``final``, ``sft``, ``corpus``, ``validation``, ``other``, ``plain``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from lit_narrative.report.format import number
from lit_narrative.report.svg import Axis, Element, drawing, node, padded, path, tick_label

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Line:
    """A curve.

    Attributes:
        name: shown in the legend and in tooltips.
        points: (x, y), by ascending x, at least one.
        tone: colour role.
        band: half-height of a shaded band at each point, or empty.
        marked: draw the points themselves, for curves of few points.
        faint: draw it in the background.
    """

    name: str
    points: Points
    tone: str = "final"
    band: Sequence[float] = ()
    marked: bool = False
    faint: bool = False


@dataclass(frozen=True, slots=True)
class Level:
    """A horizontal line to compare with.

    Attributes:
        name: what it is called beside the chart.
        value: its height.
        tone: name of its colour.
    """

    name: str
    value: float
    tone: str = "sft"


@dataclass(frozen=True, slots=True)
class Frame:
    """Size and bounds of a chart.

    Attributes:
        width: in pixels.
        height: likewise.
        low: lower bound of the upright axis; None: it follows the data.
        high: upper bound, likewise.
        x_label: what the level axis counts.
        marks: places on the level axis with an upright line.
    """

    width: float = 360
    height: float = 190
    low: float | None = None
    high: float | None = None
    x_label: str = ""
    marks: Sequence[float] = ()


def line_chart(title: str, lines: Sequence[Line], levels: Sequence[Level] = (), frame: Frame | None = None) -> Markup:
    """Draw curves over whole steps, with levels as dashed lines and ``frame.marks`` as faint uprights."""
    frame = frame or Frame()
    x, y = _axes(lines, levels, frame)
    parts = [*_grid(x, y, frame), *(_upright(x(mark), y) for mark in frame.marks if x.low < mark < x.high)]
    for line in lines:
        parts += _curve(line, x, y)
    parts += [_level(level, x, y) for level in levels]
    return drawing(frame.width, frame.height, _describe(title, lines, levels), parts, "chart")


def histogram(title: str, counts: Sequence[int], labels: Sequence[str], frame: Frame | None = None) -> Markup:
    """Draw one bar a bin; ``labels`` name the bins (an empty label leaves the axis bare there)."""
    frame = frame or Frame()
    x = Axis(0, len(counts), 34, frame.width - 8)
    # At least 1, for a histogram of nothing but empty bins.
    y = Axis(0, max(*counts, 1) * 1.08, frame.height - 34, 8)
    bars = [_bar(index, count, labels[index], x, y) for index, count in enumerate(counts)]
    names = [
        node("text", text=label, x=x(index + 0.5), y=y.start + 14, text_anchor="middle", class_="tick")
        for index, label in enumerate(labels)
    ]
    label = f"{title}: " + ", ".join(f"{name or 'next'} {count}" for name, count in zip(labels, counts, strict=True))
    parts = [*rules(x, y), *bars, *names, _x_label(x, frame)]
    return drawing(frame.width, frame.height, label, parts, "chart")


@dataclass(frozen=True, slots=True)
class Dot:
    """A value of a row of dots.

    Attributes:
        name: of the row.
        value: its place.
        tone: name of its colour.
        interval: lower and upper end; None: it has none.
        hollow: draw a ring.
    """

    name: str
    value: float
    tone: str
    interval: tuple[float, float] | None = None
    hollow: bool = False


def dot_chart(
    title: str,
    rows: Sequence[tuple[str, Sequence[Dot]]],
    bounds: tuple[float, float] = (0, 1),
    gutter: float = 118,
    mark: float | None = None,
    apart: float = 0,
) -> Markup:
    """Draw a row a name: its dots on a common axis over ``bounds``, joined by a thin line.

    Args:
        title: what is compared.
        rows: (name, dots).
        bounds: ends of the axis; what lies outside is drawn at the end.
        gutter: room for the names, in units of which the chart is 360 wide.
        mark: where to draw an upright to compare with.
        apart: how far below each other the dots of a row lie at most, rings aside, so that equal ones are told apart.
    """
    height, x = 24.0, Axis(*bounds, gutter, 346)
    y = Axis(0, 1, 10 + height * len(rows), 4)
    parts = [part for tick in x.ticks() for part in (_upright(x(tick), y), tick_text(x, y, tick, x.ticks()))]
    if mark is not None:
        parts.append(node("line", x1=x(mark), x2=x(mark), y1=y.start, y2=y.end, class_="level tone-plain"))
    for index, (name, dots) in enumerate(rows):
        middle = 10 + height * (index + 0.5)
        parts.append(node("text", text=name, x=gutter - 10, y=middle + 4, text_anchor="end", class_="name"))
        parts += _dots(name, dots, x, middle, apart)
    words = "; ".join(f"{name}: " + ", ".join(f"{dot.name} {number(dot.value)}" for dot in dots) for name, dots in rows)
    return drawing(360, y.start + 20, f"{title}. {words}", parts, "chart")


_WIDTH, _HEIGHT, _LEFT, _FOOT, _LINE = 360.0, 210.0, 42.0, 34.0, 13.0
"""Of a scatter chart: its size, the room for numbers, and the height of a name, in its own units."""


@dataclass(frozen=True, slots=True)
class Point:
    """A named point.

    Attributes:
        name: what it is called.
        x: its place on the level axis.
        y: its height.
        tone: name of its colour.
        interval: of its height, lower and upper end; None: it has none.
    """

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


def _axes(lines: Sequence[Line], levels: Sequence[Level], frame: Frame) -> tuple[Axis, Axis]:
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points] + [level.value for level in levels]
    ys += [
        y + side * half
        for line in lines
        for (_, y), half in zip(line.points, line.band, strict=False)
        for side in (-1, 1)
    ]
    low, high = padded(ys)
    # A fixed bound wins over the data: curves of shares are told apart by eye only on one scale.
    low, high = (low if frame.low is None else frame.low), (high if frame.high is None else frame.high)
    # A single step would make an axis of no width, which no position can be divided by.
    left, right = (min(xs), max(xs)) if min(xs) < max(xs) else (min(xs) - 0.5, max(xs) + 0.5)
    bottom = frame.height - (34 if frame.x_label else 22)
    # A flat curve at a fixed lower bound would have an axis of zero height, and its map would divide by zero.
    y = Axis(low, max(high, low + 1e-9), bottom, 8)
    ticks = y.ticks()
    longest = max((len(tick_label(tick, tick_step(ticks))) for tick in ticks), default=0)
    # A digit is about 7 wide, and the numbers end 6 before the axis.
    return Axis(left, right, max(42, 8 + 7 * longest), frame.width - 10), y


def _grid(x: Axis, y: Axis, frame: Frame) -> list[Element]:
    ticks = x.ticks(least=1)
    return [*rules(x, y), *(tick_text(x, y, tick, ticks) for tick in ticks), _x_label(x, frame)]


def tick_text(x: Axis, y: Axis, tick: float, ticks: Sequence[float]) -> Element:
    """The number of one of the ``ticks``, below the lower end of ``y``."""
    text = tick_label(tick, tick_step(ticks))
    return node("text", text=text, x=x(tick), y=y.start + 14, text_anchor="middle", class_="tick")


def tick_step(ticks: Sequence[float]) -> float:
    """How far ticks lie apart."""
    return ticks[1] - ticks[0] if len(ticks) > 1 else 1.0


def rules(x: Axis, y: Axis) -> list[Element]:
    """Level lines at the ticks of ``y``, with their numbers."""
    ticks = y.ticks()
    parts = []
    for tick in ticks:
        parts.append(node("line", x1=x.start, x2=x.end, y1=y(tick), y2=y(tick), class_="rule"))
        label = tick_label(tick, tick_step(ticks))
        parts.append(node("text", text=label, x=x.start - 6, y=y(tick) + 4, text_anchor="end", class_="tick"))
    return parts


def _x_label(x: Axis, frame: Frame) -> Element:
    middle = (x.start + x.end) / 2
    return node("text", text=frame.x_label, x=middle, y=frame.height - 4, text_anchor="middle", class_="tick")


def _upright(x: float, y: Axis) -> Element:
    return node("line", x1=x, x2=x, y1=y.start, y2=y.end, class_="rule")


def _curve(line: Line, x: Axis, y: Axis) -> list[Element]:
    positions = [(x(a), y(b)) for a, b in line.points]
    tone = f"tone-{line.tone}" + (" faint" if line.faint else "")
    parts = [_band(line, x, y)] if line.band else []
    parts.append(node("path", d=path(positions), class_=f"curve {tone}"))
    # A path of one point draws nothing, so that its dot must be seen.
    marked = line.marked or len(positions) == 1
    radius, look = (4.0, f"dot marked {tone}") if marked else (1.5, f"dot {tone}")
    for (a, b), (at_x, at_y) in zip(line.points, positions, strict=True):
        tip = node("title", text=f"{line.name}, step {a:g}: {number(b)}")
        parts.append(node("circle", tip, cx=at_x, cy=at_y, r=radius, class_=look))
    return parts


def _band(line: Line, x: Axis, y: Axis) -> Element:
    spread = [(x(a), b, half) for (a, b), half in zip(line.points, line.band, strict=True)]
    # Cut off at the frame, whose bounds may be fixed.
    upper = [(a, y(min(b + half, y.high))) for a, b, half in spread]
    lower = [(a, y(max(b - half, y.low))) for a, b, half in reversed(spread)]
    return node("path", d=path([*upper, *lower]) + "Z", class_=f"band tone-{line.tone}")


def _level(level: Level, x: Axis, y: Axis) -> Element:
    tip = node("title", text=f"{level.name}: {number(level.value)}")
    # A level outside the axis is drawn at its end rather than over the title.
    at = y(min(max(level.value, y.low), y.high))
    return node("line", tip, x1=x.start, x2=x.end, y1=at, y2=at, class_=f"level tone-{level.tone}")


def _bar(index: int, count: int, label: str, x: Axis, y: Axis) -> Element:
    tip = node("title", text=f"{label}: {count}" if label else str(count))
    width = x(index + 1) - x(index)
    return node("rect", tip, x=x(index) + 1, y=y(count), width=width - 2, height=y.start - y(count), rx=2, class_="bar")


def _dots(row: str, dots: Sequence[Dot], x: Axis, middle: float, apart: float) -> list[Element]:
    ends = [_inside(x, dot.value) for dot in dots]
    parts = [node("line", x1=min(ends), x2=max(ends), y1=middle, y2=middle, class_="join")] if ends else []
    solid = sum(not dot.hollow for dot in dots)
    step = min(apart, 14 / max(solid - 1, 1))
    level = -(solid - 1) / 2  # rings lie on the middle line; the dots share the room around it
    for dot, end in zip(dots, ends, strict=True):
        y = middle if dot.hollow else middle + step * level
        level += not dot.hollow
        if dot.interval is not None:
            low, high = (_inside(x, bound) for bound in dot.interval)
            parts.append(node("line", x1=low, x2=high, y1=y, y2=y, class_=f"range tone-{dot.tone}"))
        tip = node("title", text=f"{row}, {dot.name}: {number(dot.value)}")
        look = "hollow" if dot.hollow else "marked"
        parts.append(node("circle", tip, cx=end, cy=y, r=5, class_=f"dot {look} tone-{dot.tone}"))
    return parts


def _inside(x: Axis, value: float) -> float:
    return x(min(max(value, x.low), x.high))


def _describe(title: str, lines: Sequence[Line], levels: Sequence[Level]) -> str:
    ends = [f"{line.name} from {number(line.points[0][1])} to {number(line.points[-1][1])}" for line in lines]
    return f"{title}: " + ", ".join([*ends, *(f"{level.name} {number(level.value)}" for level in levels)])


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
    # From top to bottom, so that a name only ever moves down from its point, past the one above.
    for point in sorted(points, key=lambda point: y(point.y)):
        right = x(point.x) > (x.start + x.end) / 2
        height = taken[right] = max(y(point.y) + 4, taken[right] + _LINE)
        at, anchor = (x(point.x) - 9, "end") if right else (x(point.x) + 9, "start")
        parts.append(node("text", text=point.name, x=at, y=height, text_anchor=anchor, class_="name"))
    return parts
