"""First-order effects of SAE features on the answer."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from lit_narrative.circuits.analyses.feature_effects import feature_effects, load_effects, save_effects
from lit_narrative.circuits.analyses.residual_sae import ResidualSAESettings, residuals, train_sae
from lit_narrative.circuits.bridge import build_bridge
from lit_narrative.circuits.inputs import ask_all
from tests.circuits.planted import planted_contrasts, planted_inputs, planted_lm

HOOK = "blocks.1.hook_resid_pre"
SETTINGS = ResidualSAESettings(HOOK, expansion=2, options={"k": 2}, steps=200, batch_size=128)


def test_effects_of_features_are_derivatives() -> None:
    bridge, inputs = build_bridge(planted_lm()), planted_contrasts(20).inputs("clean")
    sae = train_sae(residuals(bridge, planted_inputs(200), HOOK).vectors, SETTINGS)
    effects = feature_effects(bridge, sae, inputs, HOOK)
    assert effects.shape == (64,)
    assert torch.allclose(feature_effects(bridge, sae, inputs, HOOK, batch_size=7), effects, atol=1e-5)
    base = ask_all(bridge, inputs, 99).means()["logit_diff"]
    for feature in effects.abs().topk(3).indices.tolist():

        def more(activation: Tensor, hook: object, feature: int = feature) -> Tensor:
            return activation + 1e-2 * sae.encode(activation)[..., feature, None] * sae.W_dec[feature]

        slope = (ask_all(bridge, inputs, 99, [(HOOK, more)]).means()["logit_diff"] - base) / 1e-2
        assert effects[feature].item() == pytest.approx(slope, rel=0.1, abs=1e-3)


def test_effects_are_listed_by_size(tmp_path: Path) -> None:
    save_effects(tmp_path, {"id": torch.tensor([0.5, 0.0, -2.0]), "ood": torch.tensor([0.0, 1.0, 0.0])})
    found = [(row.split, row.feature, row.effect) for row in load_effects(tmp_path)]
    assert found == [("id", 2, -2.0), ("id", 0, 0.5), ("ood", 1, 1.0)]
