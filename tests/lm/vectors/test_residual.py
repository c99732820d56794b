"""The residual stream at completions: tokens by their characters, pieces of texts, and their means."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lit_narrative.errors import UserError
from lit_narrative.lm.vectors.activations import read_block_output
from lit_narrative.lm.vectors.residual import (
    ResidualLayout,
    completion_residuals,
    moment_means,
    token_ends,
    token_moments,
)
from lit_narrative.rl.rewards.feature_quality import TokenFeatureQuality
from lit_narrative.views import Rollout
from tests.helpers import ARCHITECTURES, PROMPTS, TEXTS, grpo, tiny_lm, tokenizer


def rollout(prompt: str, text: str) -> Rollout:
    ids = [torch.tensor(tokenizer().encode(part)) for part in (prompt, text)]
    return Rollout(ids[0], ids[1], torch.zeros(len(ids[1])), True, text)


ROLLOUTS = [
    rollout(prompt, text) for prompt, text in zip(PROMPTS, [TEXTS[0], "salt", TEXTS[5], "ü, “tide”"], strict=True)
]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_vectors_are_those_of_the_text_read_alone(architecture: str, layer: int) -> None:
    lm = tiny_lm(architecture, scale=3.0)
    found = dict(completion_residuals(lm, ROLLOUTS, layer, batch_size=3))
    for number, one in enumerate(ROLLOUTS):
        ids = torch.cat([one.prompt_ids, one.completion_ids])[None]
        alone = read_block_output(lm, ids, torch.ones_like(ids), layer)[0, len(one.prompt_ids) :]
        np.testing.assert_allclose(found[number], alone.numpy(), atol=1e-5)


def test_a_layer_that_the_model_lacks_is_named() -> None:
    with pytest.raises(UserError, match=r"layer is 7, and the model has the layers 0 .* to 2"):
        next(completion_residuals(tiny_lm(), ROLLOUTS, 7))


def test_tokens_end_where_their_text_does() -> None:
    for one, ends in zip(ROLLOUTS, token_ends(tokenizer(), ROLLOUTS), strict=True):
        assert len(ends) == len(one.completion_ids)
        assert (np.diff(ends) >= 0).all()
        assert ends[-1] == len(one.text)
        if one.text.isascii():
            pieces = [one.text[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)]
            assert pieces == [tokenizer().decode([token]) for token in one.completion_ids.tolist()]


def test_moments_of_a_text_without_plays_are_single_tokens() -> None:
    ends = np.array([2, 2, 5, 9, 12])
    assert token_moments(ends, 9) == [((0, 2),), ((2, 5),), ((5, 9),), ((9, 12),)]
    assert token_moments(ends, 2) == [((0, 2),), ((9, 12),)]
    assert token_moments(np.zeros(3, dtype=int)) == []


def test_a_moment_is_the_mean_over_its_pieces_of_the_mean_over_their_tokens(tmp_path: Path) -> None:
    module = grpo(tmp_path, model=str(_saved(tmp_path)))
    module.load_model()
    one = rollout("A", "quxy zb: 1234567")
    states = dict(module.residuals([one], 1))[0]
    ends = token_ends(tokenizer(), [one])[0]
    first, last = (0, int(ends[0])), (int(ends[1]), len(one.text))
    (found,) = moment_means(module, [one], [[(first,), (first, last)]], 1)
    np.testing.assert_allclose(found[0], states[0], atol=1e-5)
    np.testing.assert_allclose(found[1], (states[0] + states[2:].mean(0)) / 2, atol=1e-5)
    # What has no moments is not read, and each text keeps its place.
    assert [rows.shape for rows in moment_means(module, [one], [[]], 1)] == [(0, 0)]
    none, some = moment_means(module, [ROLLOUTS[2], one], [[], [(first,)]], 1)
    assert none.shape == (0, 0)
    np.testing.assert_allclose(some[0], states[0], atol=1e-5)


def test_the_layout_standardises_and_the_reward_reads_tokens(tmp_path: Path) -> None:
    module = grpo(tmp_path, model=str(_saved(tmp_path)))
    module.load_model()
    nothing = [None] * len(ROLLOUTS)
    raw = np.concatenate(moment_means(module, ROLLOUTS, nothing, 1))
    layout = ResidualLayout.fit(1, module, raw)
    stacked = np.concatenate(layout.vectors(ROLLOUTS, nothing))
    np.testing.assert_allclose(stacked.mean(0), 0, atol=1e-4)
    assert stacked.std(0).max() <= 1 + 1e-4
    assert layout.to_json()["layer"] == 1
    reward = TokenFeatureQuality(weights=(0, 1))
    assert reward(ROLLOUTS) == [None] * len(ROLLOUTS)
    reward.update_encoder(lambda x: (np.maximum(x, 0), x), layout, 0)
    empty = Rollout(ROLLOUTS[0].prompt_ids, torch.zeros(0).long(), torch.zeros(0), False, "")
    assert reward([*ROLLOUTS, empty]) == [1.0] * len(ROLLOUTS) + [0.0]


def _saved(folder: Path) -> Path:
    lm = tiny_lm(scale=3.0)
    lm.save_pretrained(folder / "lm")
    tokenizer().save_pretrained(folder / "lm")
    return folder / "lm"
