"""The decoding cache against that of transformers."""

import pytest
import torch
from transformers import Cache, DynamicCache, MistralConfig, PreTrainedModel

from lit_narrative.lm.fast.kv_cache import CHUNK, BufferedLayer, ChunkedLayer, decoding_cache, select_rows
from lit_narrative.lm.load import build_lm
from tests.helpers import ARCHITECTURES, tiny_lm

IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11], [20, 21, 22, 23, 24, 25, 26]])


def steps(lm: PreTrainedModel, cache: Cache, ids: torch.Tensor, prompt: int = 3) -> torch.Tensor:
    """Logits (rows, steps, V) of a prompt read at once and the rest token by token."""
    with torch.no_grad():
        logits = [lm(ids[:, :prompt], past_key_values=cache, use_cache=True).logits]
        for place in range(prompt, ids.shape[1]):
            logits.append(lm(ids[:, place : place + 1], past_key_values=cache, use_cache=True).logits)
    return torch.cat(logits, 1)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_same_logits_as_the_dynamic_cache_and_as_none(architecture: str) -> None:
    lm = tiny_lm(architecture, scale=4)
    cache = decoding_cache(lm, IDS.shape[1])
    assert all(isinstance(layer, BufferedLayer) for layer in cache.layers)
    found = steps(lm, cache, IDS)
    torch.testing.assert_close(found, steps(lm, DynamicCache(config=lm.config), IDS), atol=1e-5, rtol=0)
    with torch.no_grad():
        torch.testing.assert_close(found, lm(IDS, use_cache=False).logits, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("own", [True, False])
def test_rows_are_dropped_reordered_and_repeated(own: bool) -> None:
    lm = tiny_lm(scale=4)
    cache = decoding_cache(lm, IDS.shape[1]) if own else DynamicCache(config=lm.config)
    rows = torch.tensor([1, 0, 1])
    with torch.no_grad():
        lm(IDS[:, :4], past_key_values=cache, use_cache=True)
        select_rows(cache, rows)
        found = lm(IDS[rows, 4:], past_key_values=cache, use_cache=True).logits
        torch.testing.assert_close(found, lm(IDS[rows]).logits[:, 4:], atol=1e-5, rtol=1e-4)
        select_rows(cache, torch.tensor([2]))
    assert cache.layers[0].keys.shape[0] == 1
    assert cache.get_seq_length() == IDS.shape[1]


def test_nothing_is_copied_from_step_to_step() -> None:
    lm = tiny_lm()
    cache = decoding_cache(lm, 10)
    steps(lm, cache, IDS[:, :5])
    place = cache.layers[0].keys.data_ptr()
    with torch.no_grad():
        lm(IDS[:, 5:6], past_key_values=cache, use_cache=True)
    assert cache.layers[0].keys.data_ptr() == place


def test_models_with_a_sliding_window_keep_the_library_cache() -> None:
    config = MistralConfig(
        vocab_size=60, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, sliding_window=4,
    )  # fmt: skip
    lm = build_lm(config).eval()
    assert isinstance(decoding_cache(lm, 10), DynamicCache)
    with torch.no_grad():
        expected = lm(IDS, use_cache=False).logits
    torch.testing.assert_close(steps(lm, decoding_cache(lm, 10), IDS), expected, atol=1e-5, rtol=1e-4)


def test_pieces_hold_all_positions_of_the_rows_that_are_left() -> None:
    length, kept = 2 * CHUNK + 5, torch.tensor([0, 2])
    keys, values = torch.randn(2, 3, 2, length, 4).unbind()  # (rows, heads, positions, width)
    layer = ChunkedLayer()
    for place in range(length):
        if place == CHUNK + 3:
            layer.select(kept)
            keys, values = keys[kept], values[kept]
        pieces = layer.append(keys[:, :, place], values[:, :, place])
        of_keys, of_values = (torch.cat(parts, 2) for parts in zip(*pieces, strict=True))
        assert torch.equal(of_keys, keys[:, :, : place + 1])
        assert torch.equal(of_values, values[:, :, : place + 1])
    assert len(pieces) == 3
