"""Figures of SAE features: how often each fires on two splits, and which patterns fire it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lit_narrative.circuits.analyses.feature_effects import PatternRow
from lit_narrative.circuits.analyses.residual_features import ALIVE, EPSILON, SPECIFIC, FeatureRow, ResidualFeatures
from lit_narrative.circuits.figures.canvas import heat, hide, name_of, sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


KINDS = {"stable": "#009e73", "between": "#b0b0b0", "id_specific": "#0072b2", "ood_specific": "#d55e00"}
MOST = 40
"""Patterns, and features, of a figure."""


def draw_rates(features: Mapping[str, ResidualFeatures]) -> "Figure":
    """Firing rates on the reference split against those on each other split, one dot a feature.

    Args:
        features: by model.
    """
    splits = list(dict.fromkeys(row.split for table in features.values() for row in table.rows))
    columns = max(min(len(splits), 3), 1)
    lines = -(-max(len(splits), 1) // columns)
    figure, panels = sheet(len(features) * lines, columns, 3.1)
    for turn, (model, table) in enumerate(features.items()):
        spots = panels[turn * lines : (turn + 1) * lines].flat
        for axes in spots[len(splits) :]:
            hide(axes)
        for axes, split in zip(spots, splits, strict=False):
            _rates(axes, [row for row in table.rows if row.split == split])
            axes.set_title(name_of(model, split))
    return figure


def draw_patterns(rows: Sequence[PatternRow]) -> "Figure":
    """Correlation of features and patterns: the features with the largest one of any pattern.

    Args:
        rows: of one split and one kind of patterns.
    """
    labels = sorted({row.label for row in rows})[:MOST]
    known = {(row.label, row.feature): row.correlation or 0.0 for row in rows}
    best: dict[int, float] = {}
    for (label, feature), value in known.items():
        if label in labels:
            best[feature] = max(best.get(feature, 0.0), abs(value))
    features = sorted(sorted(best, key=lambda feature: -best[feature])[:MOST])
    values = np.array([[known.get((label, feature), np.nan) for feature in features] for label in labels])
    figure, panels = sheet(1, 1, 1.2 + 0.18 * max(len(labels), 3))
    heat(panels[0][0], values, labels, [str(feature) for feature in features], (-1, 1), "correlation")
    panels[0][0].set_xlabel("feature")
    return figure


def _rates(axes: "Axes", rows: list[FeatureRow]) -> None:
    for kind, color in KINDS.items():
        of_kind = [row for row in rows if row.kind == kind]
        # A rate of 0 has no place on a logarithmic axis: it is drawn at the edge.
        x, y = ([max(getattr(row, name), EPSILON) for row in of_kind] for name in ("id_rate", "rate"))
        axes.scatter(x, y, s=9, color=color, label=f"{kind.replace('_', '-')} {len(of_kind)}", linewidths=0)
    ends = (EPSILON, 1.0)
    for ratio in (2.0**-SPECIFIC, 1.0, 2.0**SPECIFIC):
        axes.plot(ends, [ratio * end for end in ends], color="#999999", linewidth=0.7, zorder=0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(EPSILON * 0.7, 1.4)
    axes.set_ylim(EPSILON * 0.7, 1.4)
    axes.set_xlabel("share of tokens on the reference split")
    axes.set_ylabel("share on this split")
    dead = sum(row.kind == "dead" for row in rows)
    axes.legend(loc="upper left", title=f"{dead} dead (≤ {ALIVE:g})", title_fontsize=8, handletextpad=0.1)
