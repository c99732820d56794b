"""Figures of parts: the loss without each, and what each adds to the answer."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np

from lit_narrative.circuits.figures.canvas import DASHES, around_zero, colors, heat, name_of, sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lit_narrative.circuits.records.ablation import Ablation, Metric


MOST = 32
"""Parts shown in a figure; of more, those of the largest magnitude."""


def draw_ablation(ablations: "Mapping[str, Ablation]") -> "Figure":
    """Importance of each part: a panel for each split, a bar for each part and model.

    Args:
        ablations: by model, of the same parts and splits.
    """
    models = ablations.values()
    bases = {base.split: base for base in next(iter(models)).bases}
    # One score for all models of a panel, or their bars could not be compared.
    metrics: dict[str, Metric] = {
        split: "logit_diff" if any(model.base(split).weak for model in models) else "accuracy" for split in bases
    }
    bars = {split: {name: model.ranking(split, metrics[split]) for name, model in ablations.items()} for split in bases}
    # The same parts in every panel: the strongest anywhere.
    units = strongest([values for by_model in bars.values() for values in by_model.values()], _order(ablations))
    figure, panels = sheet(len(bases), 1, 1.75)
    for axes, (split, by_model) in zip(panels[:, 0], bars.items(), strict=True):
        _bars(axes, by_model, units)
        accuracies = ", ".join(f"{name_of(name, '')}{a.base(split).accuracy:.2f}" for name, a in ablations.items())
        axes.set_title(_title(split, metrics[split], accuracies, bases[split].majority), loc="left")
        axes.set_ylabel("loss")
    if len(ablations) > 1:
        panels[0][0].legend(loc="upper right")
    return figure


def _order(ablations: "Mapping[str, Ablation]") -> list[str]:
    first = next(iter(ablations.values()))
    return list(dict.fromkeys(row.unit for row in sorted(first.rows, key=lambda row: row.layer)))


def _title(split: str, metric: str, accuracies: str, majority: float) -> str:
    text = f"{split}: accuracy {accuracies}, majority {majority:.2f}; loss of {metric.replace('_diff', ' difference')}"
    return f"{text} (WEAK: too near the majority)" if metric != "accuracy" else text


def _bars(axes: "Axes", values: Mapping[str, Mapping[str, float]], units: Sequence[str]) -> None:
    width = 0.8 / len(values)
    for turn, ((model, losses), color) in enumerate(zip(values.items(), colors(len(values)), strict=True)):
        x = np.arange(len(units)) + (turn - (len(values) - 1) / 2) * width
        axes.bar(x, [losses[unit] for unit in units], width, color=color, label=model)
    axes.axhline(0, color="#666666", linewidth=0.8)
    axes.set_xticks(range(len(units)), units, rotation=90 if len(units) > 16 else 0)
    axes.set_xlim(-0.6, len(units) - 0.4)


def strongest(rankings: Sequence[Mapping[str, float]], order: Sequence[str]) -> list[str]:
    """The parts of the largest magnitude in any of the rankings, in their own order.

    Args:
        rankings: values by part.
        order: all parts.
    """
    largest = {part: max(abs(values.get(part, 0.0)) for values in rankings) for part in order}
    kept = set(sorted(order, key=lambda part: -largest[part])[:MOST])
    return [part for part in order if part in kept]


def draw_overlaps(ablations: "Mapping[str, Ablation]") -> "Figure":
    """Profiles by layer, and whether splits and models rely on the same parts.

    Args:
        ablations: by model, of the same parts and splits.
    """
    kinds = sorted({base.weak for model in ablations.values() for base in model.bases})
    several = sum(len(model.bases) for model in ablations.values()) > 1
    figure, (line,) = sheet(1, len(kinds) + several, 3.4)
    for axes, kind in zip(line, kinds, strict=False):
        for dashes, (name, model) in zip(cycle(DASHES), ablations.items(), strict=False):
            for color, base in zip(colors(len(model.bases)), model.bases, strict=True):
                if base.weak is kind:
                    x, y = zip(*model.layer_profile(base.split).items(), strict=True)
                    axes.plot(x, y, dashes, color=color, marker="o", markersize=3, label=name_of(name, base.split))
        axes.set_title("mean loss by layer, " + ("weak splits: logit difference" if kind else "accuracy"))
        axes.set_xticks(sorted({row.layer for model in ablations.values() for row in model.rows}))
        axes.set_xlabel("layer")
        axes.margins(y=0.35)
        axes.legend(loc="upper center")
    if several:
        _jaccard(line[-1], ablations)
    return figure


def _jaccard(axes: "Axes", ablations: "Mapping[str, Ablation]") -> None:
    sets = [(name, base.split) for name, model in ablations.items() for base in model.bases]
    values = np.eye(len(sets))
    chance = 0.0
    for row, (model, split) in enumerate(sets):
        for column, (other, second) in enumerate(sets[:row]):
            both = ablations[model].compare(split, ablations[other], second)
            values[row, column] = values[column, row] = both.jaccard
            chance = both.chance
    names = [name_of(model, split) for model, split in sets]
    heat(axes, values, names, names, (0, 1), "Jaccard index")
    axes.set_title(f"same top quarter of parts? (chance {chance:.2f})")


def draw_parts(values: Mapping[str, Mapping[str, float]], label: str) -> "Figure":
    """Values of parts as a heat map, a row for each split.

    Args:
        values: by split (and model), by part.
        label: what they are.
    """
    order = list(dict.fromkeys(part for ranking in values.values() for part in ranking))
    parts = strongest(list(values.values()), order)
    table = np.array([[ranking.get(part, np.nan) for part in parts] for ranking in values.values()])
    figure, panels = sheet(1, 1, 1.1 + 0.26 * len(values))
    heat(panels[0][0], table, list(values), parts, around_zero(table), label)
    return figure
