"""Measured loss of the original's autoencoder, and how sae-lens' differs on the same weights."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from lit_narrative.sae.autoencoder import build_sae
from lit_narrative.sae.training import coefficients
from tests.paths import GOLDEN
from tests.sae.original_sae import OriginalSAE

FILE = GOLDEN / "storyworld_sae_rl.json"
pytestmark = [
    pytest.mark.golden,
    pytest.mark.skipif(not FILE.exists(), reason=f"no golden values at {FILE.parent}; set LIT_GOLDEN"),
]


@pytest.fixture
def golden() -> dict[str, Any]:
    value: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))["sae"]
    return value


@pytest.fixture
def original(golden: dict[str, Any]) -> OriginalSAE:
    return OriginalSAE(*(np.array(golden[name]) for name in ("enc_weight", "enc_bias", "dec_weight", "dec_bias")))


def test_forward(golden: dict[str, Any], original: OriginalSAE) -> None:
    z, back = original(np.array(golden["x"]))
    assert np.allclose(z, golden["z"], atol=1e-6)
    assert np.allclose(back, golden["x_hat"], atol=1e-6)


@pytest.mark.parametrize("term", ["total", "mse", "sparsity", "l2", "l0"])
def test_loss(golden: dict[str, Any], original: OriginalSAE, term: str) -> None:
    made = original.loss(np.array(golden["x"]), golden["sparsity_coef"], golden["l2_coef"])
    assert made[term] == pytest.approx(golden["loss"][term], rel=1e-6)


def test_ours_sums_where_the_original_averages_and_weighs_by_the_decoder(golden: dict[str, Any]) -> None:
    """Same weights in sae-lens' standard SAE: same latents; squared error summed; L1 summed, times decoder norms."""
    from sae_lens.saes.sae import TrainStepInput

    d, m, weight = golden["input_dim"], golden["latent_dim"], golden["sparsity_coef"]
    sae = build_sae("standard", d, m, {"l1_coefficient": weight}, seed=0)
    sae.cfg.apply_b_dec_to_input = False  # the original does not centre its input
    tensors = {"W_enc": np.array(golden["enc_weight"]).T, "W_dec": np.array(golden["dec_weight"]).T}
    tensors |= {"b_enc": np.array(golden["enc_bias"]), "b_dec": np.array(golden["dec_bias"])}
    sae.load_state_dict({name: torch.tensor(value, dtype=torch.float32) for name, value in tensors.items()})
    x = torch.tensor(golden["x"])
    out = sae.training_forward_pass(TrainStepInput(x, coefficients(sae, 0), None, 0, False))
    assert np.allclose(out.feature_acts.detach(), golden["z"], atol=1e-6)
    assert np.allclose(out.sae_out.detach(), golden["x_hat"], atol=1e-6)
    assert out.losses["mse_loss"].item() == pytest.approx(d * golden["loss"]["mse"], rel=1e-6)
    norms = np.linalg.norm(golden["dec_weight"], axis=0)
    summed = (np.array(golden["z"]) * norms).sum(1).mean()
    assert out.losses["l1_loss"].item() == pytest.approx(weight * summed, rel=1e-6)
    assert summed > m * golden["loss"]["sparsity"]
