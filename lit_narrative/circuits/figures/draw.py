"""All figures of one model's analyses, or of two models' side by side, as PNG."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from lit_narrative.circuits.analysis import Models
from lit_narrative.circuits.figures.canvas import default_style, to_png
from lit_narrative.files import write_bytes


class Drawn(NamedTuple):
    """A figure: the analysis it belongs to, a name for its file, its caption, and the PNG."""

    analysis: str
    name: str
    title: str
    png: bytes

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, as the PNG's header has them."""
        return int.from_bytes(self.png[16:20]), int.from_bytes(self.png[20:24])


def draw_figures(models: Models) -> list[Drawn]:
    """Draw what all models have in common, analysis by analysis.

    Args:
        models: by the name that panels give them; a single model needs none (an empty text).
    """
    analyses = next(iter(models.values())).analyses
    with default_style():  # around the drawing too: text is measured when the PNG is made
        return [
            Drawn(analysis.name, sketch.name, sketch.title, to_png(sketch.draw()))
            for analysis in analyses
            for sketch in analysis.draw(models)
        ]


def write_figures(figures: Iterable[Drawn], folder: str | Path) -> None:
    """Write figures as ``<name>.png`` into a folder, which is made."""
    for figure in figures:
        write_bytes(Path(folder, re.sub(r"[^\w.-]", "_", figure.name) + ".png"), figure.png)
