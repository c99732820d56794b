"""Autoencoders on vectors whose features are known."""

import pytest
import torch

from lit_narrative.errors import UserError
from lit_narrative.sae.autoencoder import SAESettings, build_sae, inference_sae
from lit_narrative.sae.controls import Training, random_part_sae
from lit_narrative.sae.known_features import KnownFeatures
from lit_narrative.sae.training import fit

KNOWN = KnownFeatures(features=12, d_in=12, active=2)


def test_vectors_are_sums_of_the_features_and_the_global_stream_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    x = KNOWN.vectors(4_000, 0)
    assert torch.equal(x, KNOWN.vectors(4_000, 0))
    assert not torch.equal(x, KNOWN.vectors(4_000, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    directions = KNOWN.dictionary.feature_vectors
    torch.testing.assert_close(directions @ directions.T, torch.eye(12), atol=0.02, rtol=0)
    weights = x @ directions.T
    assert (weights > 0.1).sum(1).float().mean() == pytest.approx(2, abs=0.1)


def test_the_features_themselves_are_found_perfect() -> None:
    sae = build_sae("topk", 12, 12, {"k": 12}, 0)
    with torch.no_grad():
        sae.W_dec.copy_(KNOWN.dictionary.feature_vectors)
        sae.W_enc.copy_(sae.W_dec.T)
    found = KNOWN.examine(inference_sae(sae))
    assert found["mcc"] == pytest.approx(1, abs=1e-4)
    assert found["uniqueness"] == 1
    assert found["recall"] > 0.99
    assert found["explained_variance"] > 0.99


def test_training_finds_the_features_and_a_random_part_does_not() -> None:
    training = Training(SAESettings("topk", d_sae=12, k=2, lr=1e-2), KNOWN.vectors(3_000, 1), 400, 128)
    sae = build_sae("topk", 12, 12, training.settings.options, 0)
    fit(sae, training.x, training.steps, training.batch_size, torch.Generator().manual_seed(0), lr=1e-2)
    learned = KNOWN.examine(inference_sae(sae), n=2_000)
    random = [KNOWN.examine(random_part_sae(part, training, 0), n=2_000) for part in ("encoder", "decoder")]
    assert learned["mcc"] > 0.8
    assert max(one["mcc"] for one in random) < learned["mcc"] - 0.1
    assert learned["f1"] > max(one["f1"] for one in random)


@pytest.mark.parametrize("given", [{"features": 0}, {"d_in": 0}, {"active": 0}, {"active": 65}, {"spread": -1}])
def test_numbers_out_of_range_are_refused(given: dict[str, int]) -> None:
    with pytest.raises(UserError, match=next(iter(given))):
        KnownFeatures(**given)
