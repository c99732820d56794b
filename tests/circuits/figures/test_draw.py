"""Figures of every analysis: which there are, what their panels say, and that only the tables decide on their bytes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest

from lit_narrative.circuits.analyses import ablation, attribution, patching
from lit_narrative.circuits.analysis import CircuitResults
from lit_narrative.circuits.figures.canvas import around_zero, default_style, heat, sheet, short
from lit_narrative.circuits.figures.draw import draw_figures, write_figures
from lit_narrative.circuits.figures.edges import draw_edges, draw_faithfulness, place_parts
from lit_narrative.circuits.figures.heat_maps import draw_patching
from lit_narrative.circuits.figures.parts import draw_ablation, draw_overlaps, strongest
from lit_narrative.circuits.graph import Graph
from lit_narrative.circuits.records.ablation import Ablation, Base, Importance
from lit_narrative.circuits.suite import load_results
from tests.circuits.make_results import png_size

NAMES = {"ablation", "ablation_overlap", "nodes", "faithfulness", "acdc", "lens", "direct", "probes_id_test_heldout"}
NAMES |= {"probes_other", "features_blocks.1.hook_resid_pre", "patterns_card_blocks.1.hook_resid_pre"}
NAMES |= {f"{name}_{split}" for name in ("patching", "edges", "attention") for split in ("id_test", "other")}


@pytest.fixture(scope="module")
def result(circuits: Path) -> CircuitResults:
    return load_results(circuits)


def texts(panel: Any) -> list[str]:
    return [label.get_text() for label in panel.get_xticklabels()]


@pytest.mark.slow
def test_all_figures_are_written_as_images(result: CircuitResults, tmp_path: Path) -> None:
    figures = draw_figures({"": result})
    assert {figure.name for figure in figures} == NAMES
    write_figures(figures, tmp_path)
    for figure in figures:
        width, height = png_size(tmp_path / f"{figure.name}.png")
        assert (width, height) == figure.size
        assert width <= 1100 and height > 100
        assert len(figure.png) < 200_000


def test_the_users_style_and_the_time_change_no_byte(result: CircuitResults) -> None:
    only = {"": replace(result, tables={ablation.TABLE: result.each(ablation.TABLE)})}
    first = draw_figures(only)
    with matplotlib.rc_context({"font.size": 20, "axes.grid": True}):
        assert draw_figures(only) == first
        assert matplotlib.rcParams["font.size"] == 20
    assert [figure.name for figure in first] == ["ablation", "ablation_overlap"]
    assert b"tEXt" not in first[0].png


def test_patches_stand_at_named_positions_and_are_white_at_zero(result: CircuitResults) -> None:
    figure = draw_patching({"": result.each(patching.TABLE)["id_test"]})
    panels = {axes.get_title(): axes for axes in figure.axes if axes.get_title()}
    assert list(panels)[:4] == ["denoise: resid_pre", "denoise: attn_out", "denoise: mlp_out", "denoise: z (heads)"]
    assert texts(panels["noise: resid_pre"]) == ["marked", "answer"]
    assert texts(panels["noise: z (heads)"]) == ["h0", "h1"]
    drawn = panels["denoise: z (heads)"].images[0]
    values, _, _ = result.each(patching.TABLE)["id_test"].grid("z")
    assert np.asarray(drawn.get_array()) == pytest.approx(values[::-1])
    assert drawn.cmap(drawn.norm(0.0))[:3] == pytest.approx((0.97, 0.97, 0.97), abs=0.01)


def test_bars_are_the_losses_and_weak_splits_are_marked(result: CircuitResults) -> None:
    importances = result.one(ablation.TABLE)
    assert importances is not None
    axes = draw_ablation({"": importances}).axes[0]
    heights = dict(zip(texts(axes), [bar.get_height() for bar in axes.patches], strict=True))
    assert heights == pytest.approx(importances.ranking("id_test"))
    weak = [base for base in importances.bases if base.weak]
    assert ("WEAK" in axes.get_title(loc="left")) == any(base.split == "id_test" for base in weak)


def test_two_models_share_panels(result: CircuitResults, noisy_circuits: Path) -> None:
    other = load_results(noisy_circuits)
    both = draw_faithfulness({"SFT": result.each(attribution.CURVES), "RL": other.each(attribution.CURVES)})
    labels = both.axes[0].get_legend_handles_labels()[1]
    assert {"SFT: faithfulness", "RL: faithfulness"} <= set(labels)


def test_the_diagram_shows_the_planted_edges_from_below_upwards(result: CircuitResults) -> None:
    figure = draw_edges({"": result.each(attribution.EDGES)["id_test"]})
    words = {text.get_text() for text in figure.axes[0].texts}
    assert {"input", "a1.h1", "logits"} <= words
    spots = place_parts(Graph(2, 2, 2), {("input", "a1.h1<v>"): 1.0, ("a1.h1", "logits"): 1.0})
    assert [part for part, spot in sorted(spots.items(), key=lambda item: item[1].y)] == ["input", "a1.h1", "logits"]


def test_many_parts_are_cut_to_the_strongest_in_their_own_order() -> None:
    order = [f"a{layer}.h{head}" for layer in range(10) for head in range(10)]
    values = {part: -place if place % 2 else 0.0 for place, part in enumerate(order)}
    kept = strongest([values], order)
    assert kept == [part for place, part in enumerate(order) if place % 2 and place > 35]


def test_cells_without_a_figure_are_grey_and_others_written() -> None:
    with default_style():
        _, panels = sheet(1, 1, 2)
        heat(panels[0][0], np.array([[np.nan, -0.5]]), ["row"], ["a", "b"], around_zero(np.array([0.5, np.nan])))
    assert [text.get_text() for text in panels[0][0].texts] == ["−.50"]
    assert [short(value) for value in (0.0, 0.996, -0.07, 12.34, 123.4, -0.001)] == [
        "0",
        "1.0",
        "−.07",
        "12.3",
        "123",
        "0",
    ]
    assert around_zero(np.array([np.nan])) == (-1e-9, 1e-9)


def test_every_split_of_many_is_drawn_in_a_colour_of_its_own() -> None:
    splits = [f"split{number}" for number in range(10)]
    rows = [
        Importance(split, "mean", "attn", f"a{layer}", layer, None, 0.1, 0, 0) for split in splits for layer in (0, 1)
    ]
    bases = [Base(split, 9, 0.9, 0.0, 0.0, 0.1) for split in splits]
    lines = draw_overlaps({"": Ablation(tuple(rows), tuple(bases))}).axes[0].lines
    assert [line.get_label() for line in lines] == splits
    assert len({line.get_color() for line in lines}) == len(splits)


def test_one_split_of_one_model_is_compared_with_nothing() -> None:
    rows = tuple(Importance("id", "mean", "attn", f"a{layer}", layer, None, 0.1, 0, 0) for layer in (0, 1))
    figure = draw_overlaps({"": Ablation(rows, (Base("id", 9, 0.9, 0.0, 0.0, 0.1),))})
    assert [axes.get_title() for axes in figure.axes] == ["mean loss by layer, accuracy"]
