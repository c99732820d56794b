"""The canvas of all figures of circuit analyses: a sheet of panels, heat maps, and the colours of models and splits.

Figures are drawn by matplotlib's objects alone, so that no state of a notebook's figures is touched, and in its default
style and fonts, so that the same tables give the same bytes everywhere.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


DPI, WIDTH = 110, 9.6
"""Pixels of an inch, and inches of a figure: as wide as a page's column, so that text is read at its own size."""

STYLE = {
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.titlesize": 10,
}

SIGNED, PLAIN = "RdBu_r", "viridis"
"""Colour maps of values with a sign, white at 0, and of values without."""
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#4d4d4d", "#8c564b")
"""Colours of splits or models in turn (Okabe and Ito's, which the colour-blind can tell apart)."""
DASHES = ("-", "--", ":", "-.")
"""Line styles of models in turn."""
COLORS_OF_A_FILE = 256
MANY = 16
"""Columns beyond which cells are too narrow for their numbers."""


@contextmanager
def default_style() -> Iterator[None]:
    """Draw as matplotlib does out of the box, whatever the user's settings; they are restored afterwards."""
    import matplotlib.style

    with matplotlib.style.context(["default", STYLE]):
        yield


def colors(count: int) -> Sequence[str]:
    """As many colours as there are splits or models; beyond those of ``COLORS``, spread over a rainbow."""
    import matplotlib
    from matplotlib.colors import to_hex

    if count <= len(COLORS):
        return COLORS[:count]
    return [to_hex(color) for color in matplotlib.colormaps["turbo"](np.linspace(0.05, 0.95, count))]


def sheet(rows: int, columns: int, height: float, widths: Sequence[float] = ()) -> tuple["Figure", np.ndarray]:
    """An empty figure and its (rows, columns) panels.

    Args:
        rows: of panels.
        columns: of panels.
        height: of a row, in inches.
        widths: of the columns, in any unit; equal by default.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, rows * height), dpi=DPI, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, width_ratios=list(widths) or None)


def to_png(figure: "Figure") -> bytes:
    """The figure as a PNG of a table of colours, a third of the size, without a date or a version in it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas, target = FigureCanvasAgg(figure), io.BytesIO()
    canvas.draw()  # savefig would draw twice
    drawn = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    colors = drawn.quantize(COLORS_OF_A_FILE, Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE)
    colors.save(target, "png", optimize=True)
    return target.getvalue()


def heat(
    axes: "Axes",
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    bounds: tuple[float, float],
    label: str = "",
    written: bool = True,
) -> None:
    """A heat map with named rows and columns, and numbers in its cells.

    Args:
        axes: where.
        values: (rows, columns); NaN is drawn grey.
        rows: from top to bottom.
        columns: from left to right.
        bounds: of the colours; those that begin below 0 are signed, and white at 0.
        label: of the colour bar; none without.
        written: whether cells with room hold their numbers.
    """
    import matplotlib

    low, high = bounds
    colors = matplotlib.colormaps[SIGNED if low < 0 else PLAIN].with_extremes(bad="#d9d9d9")
    drawn = axes.imshow(np.ma.masked_invalid(values), cmap=colors, vmin=low, vmax=high, aspect="auto")
    upright = max(map(len, columns), default=0) > (2 if len(columns) > MANY else 3)
    axes.set_xticks(range(len(columns)), [_plain(name) for name in columns], rotation=90 if upright else 0)
    axes.set_yticks(range(len(rows)), [_plain(name) for name in rows])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if written and len(columns) <= MANY:
        _write_cells(axes, values, bounds)
    if label and axes.figure is not None:
        axes.figure.colorbar(drawn, ax=axes, label=label, fraction=0.04, pad=0.02)


def _plain(name: str) -> str:
    """A name in which matplotlib sees no formula."""
    return name.replace("$", r"\$")


def _write_cells(axes: "Axes", values: np.ndarray, bounds: tuple[float, float]) -> None:
    low, high = bounds
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            share = (value - low) / (high - low)
            pale = abs(share - 0.5) < 0.3 if low < 0 else share > 0.6
            color = "black" if pale else "white"
            text = axes.text(column, row, short(value), ha="center", va="center", fontsize=7, color=color)
            text.set_in_layout(False)  # it lies within its panel, and the layout engine takes long to measure thousands


def short(value: float) -> str:
    """A number in few characters: ``.42``, ``−.07``, ``3.1``, ``120``."""
    text = f"{value:.2f}" if abs(value) < 0.995 else f"{value:.1f}" if abs(value) < 99.5 else f"{value:.0f}"
    text = text.replace("0.", ".", 1) if abs(value) < 0.995 else text
    return ("0" if text.strip("-") == ".00" else text).replace("-", "−")


def around_zero(values: np.ndarray, least: float = 1e-9) -> tuple[float, float]:
    """Bounds of colours that are white at 0 and reach as far as the values, or ``least``, on both sides."""
    known = np.abs(values[np.isfinite(values)])
    largest = max(float(known.max(initial=0.0)), least)
    return -largest, largest


def hide(axes: "Axes") -> None:
    """Leave a panel empty."""
    axes.set_axis_off()


def name_of(model: str, text: str) -> str:
    """A panel's heading: of one model, or of several by name."""
    return f"{model}: {text}" if model else text
