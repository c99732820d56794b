"""Figures of parts: what taking each out costs, and what each adds to the answer."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np

from lit_narrative.circuits.analyses.ablation import Ablation, compare
from lit_narrative.circuits.figures.canvas import DASHES, around_zero, colors, heat, name_of, sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


MOST = 32
"""Parts shown in a figure; of more, those of the largest magnitude."""


def draw_ablation(found: Mapping[str, Ablation]) -> "Figure":
    """What each part is worth: a panel for each split, a bar for each part and model.

    Args:
        found: by model, of the same parts and splits.
    """
    bases = {base.split: base for base in next(iter(found.values())).bases}
    metrics = {
        split: "logit_diff" if any(own.base(split).weak for own in found.values()) else "accuracy" for split in bases
    }
    bars = {split: {model: own.ranking(split, metrics[split]) for model, own in found.items()} for split in bases}  # type: ignore[arg-type]
    units = strongest([values for own in bars.values() for values in own.values()], _order(found))
    figure, panels = sheet(len(bases), 1, 1.75)
    for axes, (split, own) in zip(panels[:, 0], bars.items(), strict=True):
        _bars(axes, own, units)
        accuracies = ", ".join(f"{name_of(model, '')}{a.base(split).accuracy:.2f}" for model, a in found.items())
        axes.set_title(_title(split, metrics[split], accuracies, bases[split].majority), loc="left")
        axes.set_ylabel("loss")
    if len(found) > 1:
        panels[0][0].legend(loc="upper right")
    return figure


def _order(found: Mapping[str, Ablation]) -> list[str]:
    first = next(iter(found.values()))
    return list(dict.fromkeys(row.unit for row in sorted(first.rows, key=lambda row: row.layer)))


def _title(split: str, metric: str, accuracies: str, majority: float) -> str:
    text = f"{split}: accuracy {accuracies}, majority {majority:.2f}; loss of {metric.replace('_diff', ' difference')}"
    return f"{text} (WEAK: too near the majority)" if metric != "accuracy" else text


def _bars(axes: "Axes", values: Mapping[str, Mapping[str, float]], units: Sequence[str]) -> None:
    width = 0.8 / len(values)
    for turn, ((model, own), color) in enumerate(zip(values.items(), colors(len(values)), strict=True)):
        places = np.arange(len(units)) + (turn - (len(values) - 1) / 2) * width
        axes.bar(places, [own[unit] for unit in units], width, color=color, label=model)
    axes.axhline(0, color="#666666", linewidth=0.8)
    axes.set_xticks(range(len(units)), units, rotation=90 if len(units) > 16 else 0)
    axes.set_xlim(-0.6, len(units) - 0.4)


def strongest(rankings: Sequence[Mapping[str, float]], order: Sequence[str]) -> list[str]:
    """The parts of the largest magnitude in any of the rankings, in their own order.

    Args:
        rankings: figures by part.
        order: all parts.
    """
    largest = {part: max(abs(own.get(part, 0.0)) for own in rankings) for part in order}
    kept = set(sorted(order, key=lambda part: -largest[part])[:MOST])
    return [part for part in order if part in kept]


def draw_overlaps(found: Mapping[str, Ablation]) -> "Figure":
    """Profiles by layer, and whether splits and models rely on the same parts.

    Args:
        found: by model, of the same parts and splits.
    """
    kinds = sorted({base.weak for own in found.values() for base in own.bases})
    several = sum(len(own.bases) for own in found.values()) > 1
    figure, (line,) = sheet(1, len(kinds) + several, 3.4)
    for axes, kind in zip(line, kinds, strict=False):
        for dashes, (model, own) in zip(cycle(DASHES), found.items(), strict=False):
            for color, base in zip(colors(len(own.bases)), own.bases, strict=True):
                if base.weak is kind:
                    x, y = zip(*own.layer_profile(base.split).items(), strict=True)
                    axes.plot(x, y, dashes, color=color, marker="o", markersize=3, label=name_of(model, base.split))
        axes.set_title("mean loss by layer, " + ("weak splits: logit difference" if kind else "accuracy"))
        axes.set_xticks(sorted({row.layer for own in found.values() for row in own.rows}))
        axes.set_xlabel("layer")
        axes.margins(y=0.35)
        axes.legend(loc="upper center")
    if several:
        _jaccard(line[-1], found)
    return figure


def _jaccard(axes: "Axes", found: Mapping[str, Ablation]) -> None:
    sets = [(model, base.split) for model, own in found.items() for base in own.bases]
    values = np.eye(len(sets))
    chance = 0.0
    for row, (model, split) in enumerate(sets):
        for column, (other, second) in enumerate(sets[:row]):
            shared = compare(found[model], split, found[other], second)
            values[row, column] = values[column, row] = shared.jaccard
            chance = shared.chance
    names = [name_of(model, split) for model, split in sets]
    heat(axes, values, names, names, (0, 1), "Jaccard index")
    axes.set_title(f"same top quarter of parts? (chance {chance:.2f})")


def draw_parts(values: Mapping[str, Mapping[str, float]], label: str) -> "Figure":
    """Figures of parts as a heat map, a row for each split.

    Args:
        values: by split (and model), by part.
        label: what they are.
    """
    order = list(dict.fromkeys(part for own in values.values() for part in own))
    parts = strongest(list(values.values()), order)
    table = np.array([[own.get(part, np.nan) for part in parts] for own in values.values()])
    figure, panels = sheet(1, 1, 1.1 + 0.26 * len(values))
    heat(panels[0][0], table, list(values), parts, around_zero(table), label)
    return figure
