"""Figures by layer: linear probes, and the logit lens."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np

from lit_narrative.circuits.figures.canvas import DASHES, around_zero, colors, heat, name_of, sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lit_narrative.circuits.records.lens import Lens, LensRow
    from lit_narrative.circuits.records.probes import ProbeRow, Probes


def draw_probes(probes: "Mapping[str, Probes]", split: str) -> "Figure":
    """Scores on a split by target and column, beside the majority's share, and their gain over the controls.

    Args:
        probes: by model.
        split: of the rows.
    """
    rows = {model: [row for row in table.rows if row.split == split] for model, table in probes.items()}
    targets = list(dict.fromkeys(row.target for of_model in rows.values() for row in of_model))
    columns = list(dict.fromkeys(_column(row) for of_model in rows.values() for row in of_model))
    width = max(len(columns), 4)
    labels = 0.08 * max(map(len, columns), default=0)
    figure, panels = sheet(len(rows), 3, 0.6 + labels + 0.19 * max(len(targets), 3), (1.4, width, width))
    for line, (model, of_model) in zip(panels, rows.items(), strict=True):
        positions = {row.place for row in of_model}
        named = [_short(column, len(positions) == 1) for column in columns]
        heat(line[0], _grid(of_model, targets, [""], "majority"), targets, ["majority"], (0, 1))
        heat(line[1], _grid(of_model, targets, columns, "score"), [""] * len(targets), named, (0, 1), "score")
        gains = _grid(of_model, targets, columns, "selectivity")
        heat(line[2], gains, [""] * len(targets), named, around_zero(gains, 1.0), "score less control")
        line[1].set_title(name_of(model, f"{split}: score (accuracy, or R² from 0 to 1)"))
        line[2].set_title("less the control's score")
        line[1].set_xlabel(f"at {of_model[0].place}" if len(positions) == 1 else "")
    return figure


def _column(row: "ProbeRow") -> str:
    return f"{row.site} {row.layer} · {row.place}"


def _short(column: str, single: bool) -> str:
    """A column of a panel: ``pre 0``, with the name of the position where there are several."""
    where, position = column.replace("resid_", "").split(" · ")
    return where if single else f"{where} · {position}"


def _grid(rows: "Sequence[ProbeRow]", targets: Sequence[str], columns: Sequence[str], score: str) -> np.ndarray:
    """(targets, columns) of one score; NaN where there is none. A single nameless column takes all."""
    values = np.full((len(targets), len(columns)), np.nan)
    for row in rows:
        value = getattr(row, score)
        column = columns.index(_column(row)) if columns != [""] else 0
        values[targets.index(row.target), column] = np.nan if value is None else value
    return values


def draw_lens(lenses: "Mapping[str, Mapping[str, Lens]]") -> "Figure":
    """What each layer would answer: the answer's lead over the distractor, its rank, and accuracy.

    Args:
        lenses: by model and split.
    """
    figure, panels = sheet(1, 3, 2.7)
    names = (("logit_diff", "answer's lead over the distractor, logits"), ("rank", "tokens ahead of the answer"))
    for axes, (name, title) in zip(panels[0], (*names, ("accuracy", "accuracy")), strict=True):
        for dashes, (model, by_split) in zip(cycle(DASHES), lenses.items(), strict=False):
            for color, (split, lens) in zip(colors(len(by_split)), by_split.items(), strict=True):
                label = name_of(model, split)
                layers, values = ([getattr(row, key) for row in lens.rows] for key in ("layer", name))
                axes.plot(layers, values, dashes, color=color, marker="o", markersize=3, label=label)
        _name_layers(axes, next(iter(next(iter(lenses.values())).values())).rows)
        axes.set_title(title)
    panels[0][0].axhline(0, color="#999999", linewidth=0.8)
    panels[0][1].set_yscale("symlog", linthresh=1)  # ranks reach from 0 to the size of the vocabulary
    panels[0][1].set_ylim(bottom=0)
    panels[0][2].set_ylim(-0.03, 1.03)
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def _name_layers(axes: "Axes", rows: Sequence["LensRow"]) -> None:
    layers = [row.layer for row in rows]
    shown = layers[:: max(1, len(layers) // 8)]
    axes.set_xticks(shown, ["end" if layer == layers[-1] else str(layer) for layer in shown])
    axes.set_xlabel("stream before layer")
