"""Curves, pruning, completeness and minimality: ends are exact, and the planted circuit is small and enough."""

from pathlib import Path

import numpy as np
import pytest

from lit_narrative.circuits.analyses.acdc import PruningSettings, prune
from lit_narrative.circuits.analyses.attribution import attribute_edges
from lit_narrative.circuits.analyses.faithfulness import (
    CircuitQuality,
    Circuits,
    CurveSettings,
    Faithfulness,
    Point,
    curve,
    measure_circuit,
)
from lit_narrative.circuits.bridge import build_bridge
from lit_narrative.circuits.contrasts import Contrasts
from lit_narrative.circuits.graph import Graph
from lit_narrative.circuits.records.edges import EdgeScores, Pruned
from lit_narrative.errors import UserError
from tests.circuits.analyses.test_patching import random_contrasts
from tests.circuits.planted import planted_contrasts, planted_lm
from tests.circuits.test_bridge import make


def test_two_edges_are_the_planted_circuit_and_random_ones_are_not() -> None:
    bridge, pairs = build_bridge(planted_lm()), planted_contrasts()
    scores = attribute_edges(bridge, pairs)
    result = curve(bridge, planted_contrasts(8, seed=9), scores, CurveSettings((0.04, 0.5), random=4))
    assert [point.edges for point in result.points] == [0, 2, 23, 46]
    assert [point.faithfulness for point in result.points] == pytest.approx([0.0, 1.0, 1.0, 1.0], abs=0.1)
    assert [point.completeness for point in result.points] == pytest.approx([0.0, 1.0, 1.0, 1.0], abs=0.1)
    assert result.points[1].random is not None and result.points[1].random < 0.3
    assert result.random_cpr is not None and result.cpr > result.random_cpr + 0.2
    assert result.cmd < 0.1
    assert result.full > 3 > -3 > result.empty


@pytest.mark.parametrize("kind", ["gpt2", "llama_grouped"])
def test_all_edges_are_the_model_and_none_the_corrupt_run(kind: str) -> None:
    bridge, pairs = build_bridge(make(kind)), random_contrasts()
    graph = Graph.of(bridge)
    rng = np.random.default_rng(0)
    scores = EdgeScores(graph, rng.normal(size=graph.exists.shape).astype(np.float32) * graph.exists, "random")
    result = curve(bridge, pairs, scores, CurveSettings((0.3,), random=0))
    assert (result.points[0].faithfulness, result.points[-1].faithfulness) == pytest.approx((0.0, 1.0), abs=1e-4)
    assert (result.points[0].completeness, result.points[-1].completeness) == pytest.approx((0.0, 1.0), abs=1e-4)
    assert result.points[1].random is None
    assert result.random_cpr is None


def test_areas() -> None:
    points = (Point(0, 0.0, 0.0, 0.0, 0.0), Point(1, 0.5, 1.5, 0.5, 0.2), Point(2, 1.0, 1.0, 1.0, 1.0))
    made = Faithfulness(points, 1.0, 0.0)
    assert made.cpr == pytest.approx(0.375 + 0.625)
    assert made.cmd == pytest.approx((1 + 0.5) / 4 + 0.5 / 4)
    assert made.random_cpr == pytest.approx(0.05 + 0.3)


def test_pruning_leaves_the_planted_edges(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    bridge = build_bridge(planted_lm())
    result = prune(bridge, planted_contrasts(), PruningSettings(0.2), lambda *step: told.append(step))
    assert {result.graph.name(edge) for edge in result.kept} == {"a1.h1->logits", "input->a1.h1<v>"}
    assert result.faithfulness == pytest.approx(1.0, abs=0.2)
    assert told[-1] == (46, 46)
    read = Pruned.load(result.save(tmp_path))
    assert (read.kept, read.faithfulness, read.threshold) == (result.kept, result.faithfulness, 0.2)
    assert (read.tried, len(read.graph.edges)) == (46, 46)
    few = prune(bridge, planted_contrasts(), PruningSettings(0.2, max_edges=3), lambda *now: told.append(now))
    assert told[-1] == (3, 3)
    assert (few.tried, set(few.kept)) == (3, set(result.kept))
    everything = prune(bridge, planted_contrasts(2), PruningSettings(1e-9))
    assert len(everything.kept) > 30


def test_saved_and_loaded(tmp_path: Path) -> None:
    bridge, pairs = build_bridge(planted_lm()), planted_contrasts(3)
    result = curve(bridge, pairs, attribute_edges(bridge, pairs), CurveSettings((0.1,), random=1))
    assert Faithfulness.load(result.save(tmp_path)) == result


def test_bad_input_is_named() -> None:
    with pytest.raises(UserError, match=r"faithfulness\.fractions: 5 is not in 0..1"):
        CurveSettings((5,))
    with pytest.raises(UserError, match=r"acdc\.threshold is 0"):
        PruningSettings(0)
    bridge, pairs = build_bridge(planted_lm()), planted_contrasts(2)
    same = Contrasts(pairs.clean, pairs.clean, pairs.mask, pairs.answer, pairs.distractor, pairs.positions)
    with pytest.raises(UserError, match="no circuit to look for"):
        Circuits(bridge, same)


def test_the_planted_circuit_is_enough_all_and_needed(tmp_path: Path) -> None:
    circuits = Circuits(build_bridge(planted_lm()), planted_contrasts())
    edges = {circuits.graph.name(edge): edge for edge in circuits.graph.edges}
    planted = [edges["input->a1.h1<v>"], edges["a1.h1->logits"]]
    result = measure_circuit(circuits, planted)
    assert (result.edges, result.faithfulness, result.completeness) == (
        2,
        pytest.approx(1, abs=0.1),
        pytest.approx(1, abs=0.1),
    )
    assert result.incompleteness < 0.1
    assert result.minimality > 0.9
    more = measure_circuit(circuits, [*planted, edges["m0->a1.h0<q>"]])
    assert more.minimality < 0.05
    assert more.idlest == "m0->a1.h0<q>"
    fewer = measure_circuit(circuits, planted[:1])
    assert fewer.faithfulness < 0.1
    assert fewer.incompleteness > 0.9
    assert CircuitQuality.load(result.save(tmp_path)) == result
    with pytest.raises(UserError, match="without edges"):
        measure_circuit(circuits, [])
