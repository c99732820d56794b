"""Inline SVG: elements that escape what they hold, and axes with round numbers.

Colours come from CSS classes, so that a drawing follows the page's light or dark scheme.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from markupsafe import Markup

Element = ElementTree.Element


def node(tag: str, *children: Element, text: str = "", **attributes: str | float) -> Element:
    """Make an element; ``class_`` becomes ``class``, other underscores become hyphens, empty attributes go."""
    written = {name.rstrip("_").replace("_", "-"): _value(value) for name, value in attributes.items() if value != ""}
    element = Element(tag, written)
    element.text = text or None
    element.extend(children)
    return element


def drawing(
    width: float, height: float, label: str, children: Sequence[Element], class_: str = "", scale: float = 0
) -> Markup:
    """Close a drawing of ``width`` x ``height`` units, which fills the width it is given.

    Args:
        width: of the drawing, in its own units.
        height: likewise.
        label: what it shows, in words.
        children: the parts, from back to front.
        class_: for the style sheet.
        scale: if not 0, the largest and (three quarters of it) the smallest size of a unit, in CSS pixels.
    """
    box = f"0 0 {_value(width)} {_value(height)}"
    size = f"max-width:{width * scale:.0f}px;min-width:{width * scale * 0.75:.0f}px" if scale else ""
    # Without a role and a label a screen reader would read every tick and every tooltip.
    root = node("svg", *children, viewBox=box, role="img", aria_label=label, class_=class_, style=size)
    # ElementTree has escaped all texts and attributes, so this may count as markup.
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def path(points: Sequence[tuple[float, float]]) -> str:
    """Return the path data of a polyline."""
    return "M" + "L".join(f"{_value(x)} {_value(y)}" for x, y in points)


def _value(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear map from values in [low, high] to positions in [start, end]; ``end`` may lie before ``start``."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the position of ``value``."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, count: int = 5, least: float = 0) -> list[float]:
        """Return about ``count`` round values inside the axis, at least ``least`` apart."""
        step = max(round_step((self.high - self.low) / count), least)
        # The margin of 1e-9 steps keeps a tick that rounding puts just outside the axis.
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [index * step for index in range(first, last + 1)]


def round_step(rough: float) -> float:
    """Return 1, 2 or 5 times a power of ten, the first not below ``rough`` (which is above 0)."""
    power = 10 ** math.floor(math.log10(rough))
    # The slack keeps an exact 5 from becoming 10 by a rounding error of the division before.
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))


def padded(values: Sequence[float], pad: float = 0.06) -> tuple[float, float]:
    """Return bounds a little outside ``values``, never of zero width."""
    low, high = min(values), max(values)
    # Equal values still need room around them: an axis of zero width has no map.
    margin = (high - low) * pad or max(abs(high) * pad, 0.05)
    return low - margin, high + margin


def tick_label(value: float, step: float) -> str:
    """Write a tick with as many decimals as its axis needs; thousands as ``12k``."""
    if step >= 1000:
        return f"{value / 1000:g}k"
    # 0.1 has the logarithm -1 only to rounding; without the margin a step of 0.1 might get no decimal.
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:.{decimals}f}".replace("-", "−") if round(value, decimals) else f"{0:.{decimals}f}"
