"""Random-part controls, and permutation of plays."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lit_narrative.sae.affordances import Affordances, analyse
from lit_narrative.sae.autoencoder import SAESettings, build_sae
from lit_narrative.sae.controls import FrozenPart, Training, control, explained_variance, information, random_part_sae
from lit_narrative.views import State


def states(seed: int = 0, n: int = 600) -> list[State]:
    """States of two worlds whose third number says, in one of two encounters, whether the second option is closed."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(n):
        vector = rng.normal(size=8).astype(np.float32)
        context = number % 2
        closed = bool(vector[2] > 0) if context else False
        meta = {"world": f"w{number % 4 // 2}", "play": number // 4, "encounter": str(context), "options": ("a", "b")}
        made.append(State(vector, str(context), (True, not closed), meta))
    return made


@pytest.fixture(scope="module")
def training() -> Training:
    x = torch.from_numpy(np.stack([state.vector for state in states(1)]))
    return Training(SAESettings("topk", d_sae=12, k=3, lr=1e-2), x, steps=120, batch_size=64)


@pytest.mark.parametrize("frozen", ["encoder", "decoder"])
def test_the_frozen_part_keeps_its_directions_and_the_other_learns(frozen: FrozenPart, training: Training) -> None:
    found = random_part_sae(frozen, training, seed=3)
    drawn = build_sae("topk", 8, 12, training.settings.options, 3)
    cosine = torch.nn.functional.cosine_similarity
    encoder = cosine(found.W_enc, drawn.W_enc, dim=0)
    decoder = cosine(found.W_dec, drawn.W_dec, dim=1)
    kept, learned = (encoder, decoder) if frozen == "encoder" else (decoder, encoder)
    torch.testing.assert_close(kept, torch.ones(12), atol=1e-5, rtol=0)
    assert learned.min() < 0.99


def test_a_control_is_measured_as_the_trained_one_is(training: Training) -> None:
    found = control("decoder", training, states(), seed=0, exchange="plays")
    assert found == control("decoder", training, states(), seed=0, exchange="plays")
    assert 0 < found["explained_variance"] < 1
    assert found["best_bits"] >= 0


def tell(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One feature that knows the answer, one that knows nothing; everything is reproduced."""
    return np.stack([np.maximum(x[:, 2], 0), np.maximum(x[:, 5], 0)], axis=1), x


def test_a_feature_that_tells_is_found_by_permuting_plays_within_each_encounter() -> None:
    found = analyse(states(), tell, seed=0, exchange="plays")
    rows = {row["latent"]: row for row in found["features"]}
    assert rows[0]["significant"]
    assert not rows[1]["significant"]
    # Half of the states are of the encounter where one bit is open, and the feature knows it all.
    assert rows[0]["conditional_mi"] == pytest.approx(found["entropy"], abs=0.01)
    assert found["entropy"] == pytest.approx(0.5, abs=0.01)
    np.testing.assert_allclose(
        information(states(), tell, "plays"), [rows[0]["conditional_mi"], rows[1]["conditional_mi"]], atol=1e-9
    )
    assert explained_variance(states(), tell) == pytest.approx(1.0)


def test_contexts_are_encounters_of_one_world_where_plays_are_permuted() -> None:
    by_world, by_play = Affordances.of(states()), Affordances.of(states(), "plays")
    assert (by_world.contexts.max(), by_world.worlds.max()) == (1, 1)
    assert by_play.contexts.max() == 3
    assert by_play.worlds.max() == 2 * 150 - 1


@pytest.mark.parametrize("frozen", ["encoder", "decoder"])
def test_a_tied_autoencoder_has_one_part_to_freeze(frozen: FrozenPart, training: Training) -> None:
    tied = replace(training, settings=SAESettings("matching_pursuit", d_sae=12, k=3), steps=5)
    found = random_part_sae(frozen, tied, seed=3)
    drawn = build_sae("matching_pursuit", 8, 12, tied.settings.options, 3)
    torch.testing.assert_close(found.W_dec, drawn.W_dec)
