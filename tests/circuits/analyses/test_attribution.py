"""Edges: exact runs are what patching gives, gradients come near them, and the planted edges are result."""

from pathlib import Path

import numpy as np
import pytest

from lit_narrative.circuits.analyses.acdc import PruningSettings, prune
from lit_narrative.circuits.analyses.attribution import AttributionSettings, attribute_edges, attribute_nodes
from lit_narrative.circuits.analyses.faithfulness import CurveSettings, curve
from lit_narrative.circuits.analyses.patching import PatchingSettings, patch
from lit_narrative.circuits.bridge import build_bridge, separate_inputs
from lit_narrative.circuits.contrasts import Contrasts
from lit_narrative.circuits.graph import Graph, run_edges, written
from lit_narrative.circuits.records.edges import EdgeScores, Method, NodeScores
from lit_narrative.errors import UserError
from tests.circuits.analyses.test_patching import random_contrasts
from tests.circuits.planted import planted_contrasts, planted_lm
from tests.circuits.test_bridge import make

PLANTED = [("a1.h1", "logits"), ("input", "a1.h1<v>")]


def close_pairs(rows: int = 4) -> Contrasts:
    """Pairs that differ in one token."""
    made = random_contrasts(rows)
    corrupt = made.clean.clone()
    corrupt[:, 2] = made.corrupt[:, 2]
    return Contrasts(made.clean, corrupt, made.mask, made.answer, made.distractor, made.positions)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "llama_grouped"])
def test_integrated_gradients_come_near_the_exact_scores(kind: str) -> None:
    bridge, pairs = build_bridge(make(kind)), close_pairs()
    exact = attribute_edges(bridge, pairs, AttributionSettings("exact")).values()
    fine = attribute_edges(bridge, pairs, AttributionSettings("eap_ig")).values()
    assert np.corrcoef(exact, fine)[0, 1] >= 0.9
    batched = attribute_edges(bridge, pairs, AttributionSettings("eap_ig", batch_size=3)).values()
    assert batched == pytest.approx(fine, abs=1e-4)


@pytest.mark.parametrize("method", ["eap", "eap_ig", "exact"])
def test_the_planted_edges_are_found(method: str) -> None:
    result = attribute_edges(build_bridge(planted_lm()), planted_contrasts(), AttributionSettings(method))  # type: ignore[arg-type]
    top = result.named(3)
    assert set(list(top)[:2]) == set(PLANTED)
    third = list(top.values())[2]
    assert min(top[edge] for edge in PLANTED) > 8 * abs(third)


def test_planted_gradients_equal_the_exact_scores() -> None:
    bridge, pairs = build_bridge(planted_lm()), planted_contrasts()
    exact = attribute_edges(bridge, pairs, AttributionSettings("exact")).values()
    fine = attribute_edges(bridge, pairs, AttributionSettings("eap_ig")).values()
    assert np.corrcoef(exact, fine)[0, 1] >= 0.99


def test_parts_and_places_of_the_planted_mechanism() -> None:
    pairs = planted_contrasts()
    result = attribute_nodes(build_bridge(planted_lm()), pairs)
    (first, score), (second, _), (_, rest) = result.ranked()[:3]
    assert {first, second} == {"input", "a1.h1"}
    assert abs(rest) < 0.1 * score
    head = result.scores[result.sources.index("a1.h1")]
    assert head.argmax() == pairs.clean.shape[1] - 1
    whole = patch(build_bridge(planted_lm()), pairs, PatchingSettings(("z",), directions=("denoise",)))
    effect = whole.top(1)[0].logit_diff - whole.corrupt.mean()
    assert head.sum() == pytest.approx(effect, rel=0.15)


def test_node_gradients_are_derivatives() -> None:
    """For a small step from the corrupt run, the score is the change itself."""
    lm = make("llama")
    bridge, pairs = build_bridge(lm), random_contrasts(2)
    made = attribute_nodes(bridge, pairs, AttributionSettings("eap"))
    assert made.scores.shape == (7, 5)
    graph = Graph.of(bridge)
    with separate_inputs(bridge):
        base, corrupt = written(bridge, pairs.inputs("corrupt"), graph)
        _, clean = written(bridge, pairs.inputs("clean"), graph)
    mask = graph.exists & (np.array(graph.sources) == "m0")[:, None]
    small = corrupt + 1e-2 * (clean - corrupt)
    result = run_edges(bridge, pairs.inputs("corrupt"), small, [mask], graph, 9).logit_diff
    slope = (result[0] - base.logit_diff).mean() / 1e-2
    assert made.scores[graph.sources.index("m0")].sum() == pytest.approx(float(slope), rel=0.1, abs=0.01)


def test_saved_and_loaded(tmp_path: Path) -> None:
    bridge, pairs = build_bridge(planted_lm()), planted_contrasts()
    result = attribute_edges(bridge, pairs, AttributionSettings("eap"))
    read = EdgeScores.load(result.save(tmp_path))
    assert np.array_equal(read.scores, result.scores)
    assert read.ranked() == result.ranked()
    nodes = attribute_nodes(bridge, pairs)
    again = NodeScores.load(nodes.save(tmp_path))
    assert np.array_equal(again.scores, nodes.scores)
    assert again.sources == nodes.sources
    dot = (tmp_path / "circuit.dot").read_text()
    assert dot.startswith("digraph circuit {")
    assert '"input" -> "a1.h1" [label="v ' in dot
    assert result.magnitudes()["a1.h1->logits"] == max(result.magnitudes().values())


def test_bad_settings_are_named() -> None:
    with pytest.raises(UserError, match=r"attribution\.method: no 'eap_gi'; did you mean 'eap_ig'"):
        AttributionSettings("eap_gi")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"attribution\.steps is 0"):
        AttributionSettings(steps=0)
    bridge, pairs = build_bridge(planted_lm()), planted_contrasts()
    with pytest.raises(UserError, match=r"46 edges, more than attribution\.max_edges=10"):
        attribute_edges(bridge, pairs, AttributionSettings("exact", max_edges=10))
    with pytest.raises(UserError, match="for exact figures patch them"):
        attribute_nodes(bridge, pairs, AttributionSettings("exact"))


@pytest.mark.parametrize("method", ["eap", "eap_ig", "exact"])
def test_layers_leave_edges_out_and_change_no_score(method: Method) -> None:
    bridge, pairs = build_bridge(make("llama")), random_contrasts()
    whole = attribute_edges(bridge, pairs, AttributionSettings(method))
    some = attribute_edges(bridge, pairs, AttributionSettings(method, layers=(1,)))
    scores = {whole.graph.name(edge): whole.scores[edge] for edge in whole.graph.edges}
    assert 0 < len(some.graph.edges) < len(whole.graph.edges)
    assert not any("a0" in name or "m0" in name for name in some.magnitudes())
    for edge in some.graph.edges:
        assert some.scores[edge] == pytest.approx(scores[some.graph.name(edge)], abs=1e-5)
    curve_of_some = curve(bridge, pairs, some, CurveSettings((0.5,), random=1))
    ends = curve_of_some.points[0], curve_of_some.points[-1]
    assert [(point.edges, point.faithfulness) for point in ends] == [
        (0, pytest.approx(0, abs=1e-3)),
        (len(some.graph.edges), pytest.approx(1, abs=1e-3)),
    ]
    assert {edge for edge in prune(bridge, pairs, PruningSettings(layers=(1,))).kept} <= set(some.graph.edges)
