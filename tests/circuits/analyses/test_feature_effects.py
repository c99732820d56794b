"""SAE features one by one: first-order effects on the answer, and the named patterns that fire them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lit_narrative.circuits.analyses import feature_effects as patterns
from lit_narrative.circuits.analyses.feature_effects import (
    feature_effects,
    feature_patterns,
    load_effects,
    load_patterns,
    save_effects,
    save_patterns,
    token_labels,
)
from lit_narrative.circuits.analyses.residual_sae import Residuals, ResidualSAESettings, residuals, train_sae
from lit_narrative.circuits.bridge import build_bridge
from lit_narrative.circuits.inputs import ask_all, encode_inputs
from lit_narrative.errors import UserError
from lit_narrative.views import Example
from tests.circuits.planted import LETTERS, planted_contrasts, planted_inputs, planted_lm

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
    result = [(row.split, row.feature, row.effect) for row in load_effects(tmp_path)]
    assert result == [("id", 2, -2.0), ("id", 0, 0.5), ("ood", 1, 1.0)]


FIRST_HOOK = "blocks.0.hook_resid_pre"


def test_labels_are_of_the_whole_row_or_of_the_last_token(letters: PreTrainedTokenizerBase) -> None:
    rows = [
        Example("RED 3:", "ab", {"targets": {"rule": "add", "total": 3.0}, "patterns": [("card", "RED 3", (0, 5))]}),
        Example("I:", "a", {"targets": {"rule": "sub"}}),
    ]
    result = token_labels(rows, encode_inputs(rows, letters), letters)
    assert {kind: labels.tolist() for kind, labels in result.items()} == {
        "rule": [["add"] * 7, ["sub"] * 7],
        "card": [["", "", "", "", "RED 3", "", ""], [""] * 7],
    }
    lost = [Example("RED", "a", {"patterns": [("card", "RED 3", (8, 9))]})]
    with pytest.raises(UserError, match="the position 'RED 3' is at the characters 8 to 9"):
        token_labels(lost, encode_inputs(lost, letters), letters)


def test_features_of_the_planted_letters_name_their_letter(tmp_path: Path) -> None:
    """Before the first layer a token is all there is: every mark fires features of its own."""
    bridge, asked = build_bridge(planted_lm()), planted_inputs(200)
    vectors = residuals(bridge, asked, FIRST_HOOK)
    sae = train_sae(vectors.vectors, ResidualSAESettings(FIRST_HOOK, expansion=2, options={"k": 2}, steps=300))
    marked = np.where(asked.tokens >= LETTERS, "yes", "no")
    letter = np.array([str(token) for token in range(2 * LETTERS + 1)], dtype=object)[asked.tokens]
    result = feature_patterns(sae, {"id": vectors}, {"id": {"letter": letter, "marked": marked}})
    assert all(row.mean > 0 for row in result)
    best = {}
    for row in result:
        if row.kind == "letter" and (row.correlation or 0) > best.get(row.label, 0.8):
            best[row.label] = row.correlation
    assert len(best) >= LETTERS
    assert load_patterns(save_patterns(tmp_path, result).parent) == result


def test_correlation_is_pearsons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "BLOCK", 1)  # features are taken one at a time, and stay in their places

    class Same:
        def encode(self, x: torch.Tensor) -> torch.Tensor:
            return x

    generator = np.random.default_rng(0)
    latents = generator.random((20, 2)).astype(np.float32)
    labels = np.array([["red", "blue", "", "green"] * 5], dtype=object)
    own = Residuals(torch.from_numpy(latents), torch.zeros(20, dtype=torch.long), torch.arange(20))
    result = feature_patterns(Same(), {"id": own}, {"id": {"color": labels, "one": np.full((1, 20), "a")}})  # type: ignore[arg-type]
    known = labels[0] != ""
    for row in result:
        if row.kind == "one":
            assert (row.correlation, row.n) == (None, 20)
            continue
        inside = labels[0][known] == row.label
        assert row.correlation == pytest.approx(np.corrcoef(latents[known, row.feature], inside)[0, 1], abs=1e-6)
        assert (row.n, row.mean) == (5, pytest.approx(latents[labels[0] == row.label, row.feature].mean(), rel=1e-5))
    assert len(result) == 2 * 3 + 2
