"""The planted circuit meets every criterion; one edge too many or too few is noticed."""

from pathlib import Path

import pytest

from lit_narrative.circuits.analyses.faithfulness import CircuitQuality, Circuits, measure_circuit
from lit_narrative.circuits.bridge import build_bridge
from lit_narrative.errors import UserError
from tests.circuits.planted import planted_contrasts, planted_lm


def test_the_planted_circuit_is_enough_all_and_needed(tmp_path: Path) -> None:
    circuits = Circuits(build_bridge(planted_lm()), planted_contrasts())
    edges = {circuits.graph.name(edge): edge for edge in circuits.graph.edges}
    planted = [edges["input->a1.h1<v>"], edges["a1.h1->logits"]]
    found = measure_circuit(circuits, planted)
    assert (found.edges, found.faithfulness, found.completeness) == (
        2,
        pytest.approx(1, abs=0.1),
        pytest.approx(1, abs=0.1),
    )
    assert found.incompleteness < 0.1
    assert found.minimality > 0.9
    more = measure_circuit(circuits, [*planted, edges["m0->a1.h0<q>"]])
    assert more.minimality < 0.05
    assert more.idlest == "m0->a1.h0<q>"
    fewer = measure_circuit(circuits, planted[:1])
    assert fewer.faithfulness < 0.1
    assert fewer.incompleteness > 0.9
    assert CircuitQuality.load(found.save(tmp_path)) == found
    with pytest.raises(UserError, match="without edges"):
        measure_circuit(circuits, [])
