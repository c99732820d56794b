"""One model whose mechanism is known: every analysis finds it, and none finds anything else."""

import numpy as np
import pytest

from lit_narrative.circuits.analyses.ablation import ablate
from lit_narrative.circuits.analyses.attribution import attribute_edges
from lit_narrative.circuits.analyses.faithfulness import CurveSettings, curve
from lit_narrative.circuits.analyses.lens import direct_attribution
from lit_narrative.circuits.analyses.patching import patch
from lit_narrative.circuits.analyses.probes import fit_probes, gather
from lit_narrative.circuits.bridge import build_bridge
from lit_narrative.circuits.linear_probe import ProbeSettings
from tests.circuits.planted import COPIER, LAYER, LETTERS, planted_contrasts, planted_inputs, planted_lm, prompts

HEAD = f"a{LAYER}.h{COPIER}"


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.05])
def test_every_analysis_names_the_copying_head(noise: float) -> None:
    bridge, pairs, inputs = build_bridge(planted_lm(noise)), planted_contrasts(8), planted_inputs(40)
    heads = ablate(bridge, {"id": inputs}, inputs).ranking("id", kinds=("heads",))
    assert next(iter(heads)) == HEAD
    assert heads[HEAD] > 0.7 > 0.1 > max(value for name, value in heads.items() if name != HEAD)
    best = patch(bridge, pairs).top(1, site="z")[0]
    assert (best.layer, best.head, best.recovery) == (LAYER, COPIER, pytest.approx(1, abs=0.1))
    edges = attribute_edges(bridge, pairs)
    assert set(edges.named(2)) == {("input", f"{HEAD}<v>"), (HEAD, "logits")}
    two = curve(bridge, planted_contrasts(8, seed=9), edges, CurveSettings((2 / 46,), random=0)).points[1]
    assert two.faithfulness == pytest.approx(1, abs=0.15)
    assert direct_attribution(bridge, pairs.inputs("clean")).ranked()[0][0] == HEAD


def test_probes_of_shuffled_letters_stay_at_chance() -> None:
    bridge, inputs = build_bridge(planted_lm()), planted_inputs(400)
    settings = ProbeSettings(places=("marked", "answer"), controls=3)
    letters = {"id": {"letter": prompts(400, 1)[2].numpy()}}
    result = fit_probes({"id": gather(bridge, inputs, settings)}, letters, "id", settings)
    controls = np.array([row.control for row in result.rows])
    assert np.abs(controls - 1 / LETTERS).max() < 0.1
    assert result.of("letter", "id_heldout")[0].accuracy == 1.0
