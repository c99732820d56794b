"""An SAE on the stream of the planted model finds the letters, tells distributions apart, and can stand in."""

from pathlib import Path

import pytest
import torch

from lit_narrative.circuits.analyses.residual_features import ResidualFeatures, compare_splits, kind_of
from lit_narrative.circuits.analyses.residual_sae import ResidualSAESettings, residuals, splice, train_sae
from lit_narrative.circuits.bridge import build_bridge
from lit_narrative.circuits.inputs import AnalysisInputs
from lit_narrative.errors import UserError
from tests.circuits.planted import LETTERS, planted_inputs, planted_lm

HOOK = "blocks.1.hook_resid_pre"
SETTINGS = ResidualSAESettings(HOOK, expansion=2, options={"k": 2}, steps=200, batch_size=128)


def few_letters(inputs: AnalysisInputs) -> AnalysisInputs:
    """The same with the letters 4 to 7 replaced by 0 to 3: a narrower distribution."""
    tokens = inputs.tokens.clone()
    letters = tokens < 2 * LETTERS
    tokens[letters] = tokens[letters] % 4 + LETTERS * (tokens[letters] // LETTERS)
    targets = torch.where(inputs.targets >= 0, inputs.targets % 4, inputs.targets)
    return AnalysisInputs(tokens, inputs.mask, targets, None, inputs.positions)


def test_features_of_a_distribution_and_stable_ones_are_told_apart(tmp_path: Path) -> None:
    bridge = build_bridge(planted_lm())
    home, narrow = planted_inputs(200), few_letters(planted_inputs(100, 3))
    splits = {"id": residuals(bridge, home, HOOK), "narrow": residuals(bridge, narrow, HOOK)}
    told: list[int] = []
    sae = train_sae(splits["id"].vectors, SETTINGS, lambda done, total: told.append(done))
    assert told == list(range(1, 201))
    asked = {"id": home, "narrow": narrow}
    result = compare_splits(sae, splits, "id", asked, lambda ids: " ".join(map(str, ids)), top=3)
    assert result.fits[0].explained_variance > 0.9
    assert result.fits[0].l0 <= 2
    assert result.fits[0].n == 200 * 7
    counts = result.counts("narrow")
    assert counts["id_specific"] >= 4
    assert counts["stable"] >= 1
    assert sum(counts.values()) == sae.cfg.d_sae
    specific = {row.feature for row in result.rows if row.kind == "id_specific"}
    for example in result.top:
        last = int(str(example["text"]).split()[-1])
        if example["feature"] in specific:
            assert example["split"] == "id"
            assert last % LETTERS >= 4
    read = ResidualFeatures.load(result.save(tmp_path))
    assert read == result


def test_the_reconstruction_stands_in_and_zero_does_not(tmp_path: Path) -> None:
    from sae_lens import SAE

    bridge, inputs = build_bridge(planted_lm()), planted_inputs(200)
    vectors = residuals(bridge, inputs, HOOK).vectors
    sae = train_sae(vectors, SETTINGS)
    result = splice(bridge, sae, planted_inputs(50, 7), HOOK)
    assert result["base"]["accuracy"] == 1.0
    assert result["spliced"]["accuracy"] >= 0.95
    assert result["zeroed"]["accuracy"] < 0.5
    assert result["recovered"]["logprob"] > 0.9
    sae.save_model(tmp_path)
    again = SAE.load_from_disk(tmp_path)
    assert torch.allclose(again.encode(vectors), sae.encode(vectors), atol=1e-5)
    assert again.cfg.metadata.hook_name == HOOK


@pytest.mark.parametrize("architecture", ["topk", "batchtopk", "jumprelu", "standard", "gated"])
def test_scaled_training_is_undone_in_the_weights(architecture: str) -> None:
    """Vectors a thousand times longer give the same code, and a reconstruction a thousand times longer."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 8, generator=generator)
    settings = ResidualSAESettings(architecture=architecture, expansion=2, steps=20, batch_size=64)  # type: ignore[arg-type]
    small, large = train_sae(x, settings), train_sae(1000 * x, settings)
    assert torch.allclose(large(1000 * x) / 1000, small(x), atol=1e-3)
    unscaled = train_sae(x, ResidualSAESettings(architecture="topk", expansion=2, steps=20, batch_size=64, scale=False))
    assert torch.isfinite(unscaled(x)).all()


def test_padding_is_no_token() -> None:
    bridge, inputs = build_bridge(planted_lm()), planted_inputs(3)
    inputs.mask[1, :4] = False
    result = residuals(bridge, inputs, HOOK)
    assert len(result.vectors) == 3 * 7 - 4
    assert result.columns[result.rows == 1].tolist() == [4, 5, 6]


def test_kinds_by_rate() -> None:
    assert kind_of(0.1, 0.1) == "stable"
    assert kind_of(0.1, 0.001) == "id_specific"
    assert kind_of(0.001, 0.1) == "ood_specific"
    assert kind_of(0.1, 0.03) == "between"
    assert kind_of(0.0005, 0.001) == "dead"


def test_bad_settings_are_named() -> None:
    with pytest.raises(UserError, match=r"sae\.options: no 'kk'; there are: k,"):
        ResidualSAESettings(options={"kk": 2})
    with pytest.raises(UserError, match=r"sae\.steps is 0"):
        ResidualSAESettings(steps=0)
    bridge, inputs = build_bridge(planted_lm()), planted_inputs(3)
    with pytest.raises(UserError, match=r"blocks.0.attn.hook_z has the shape \(3, 7, 2, 16\)"):
        residuals(bridge, inputs, "blocks.0.attn.hook_z")
    with pytest.raises(UserError, match="near names"):
        residuals(bridge, inputs, "blocks.9.hook_resid_pre")
