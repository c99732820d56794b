"""Decoding behind one shared copy of a prompt, against a copy for every row."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers import Cache, LlamaConfig, PreTrainedModel

from lit_narrative.lm.fast.kv_cache import BufferedLayer
from lit_narrative.lm.fast.prefix_decoding import Groups, can_share_prefix, prefix_attention, prefix_decoding
from lit_narrative.lm.load import Lora, add_lora, build_lm
from lit_narrative.lm.sampler import LoopSampler, Request, SamplingParams
from lit_narrative.views import Prompt, Rollout
from tests.helpers import ARCHITECTURES, tiny_lm, tokenizer

HEADS, WIDTH, TOKENS = 2, 8, 5
OWNER = torch.tensor([0, 0, 0, 1, 2, 2])
MASKS = {
    "one length": torch.ones(3, 4, dtype=torch.bool),
    "uneven": torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1], [0, 1, 1, 1]]).bool(),
}


def filled(rows: int, length: int, seed: int) -> BufferedLayer:
    torch.manual_seed(seed)
    layer = BufferedLayer(length)
    layer.update(torch.randn(rows, HEADS, length, WIDTH), torch.randn(rows, HEADS, length, WIDTH))
    return layer


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("queries", [1, 3], ids=["a head each", "three query heads a key head"])
@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4, 5], [0, 2, 4], [1, 3, 4, 5], [5]], ids=str)
def test_attention_is_that_over_prompt_and_own_tokens_together(mask: str, queries: int, rows: list[int]) -> None:
    prompt, keep = filled(3, 4, seed=0), torch.tensor(rows)
    groups = Groups(Cache(layers=[prompt]), MASKS[mask], OWNER, TOKENS)
    own = filled(len(OWNER), TOKENS, seed=1)
    assert prompt.keys is not None and prompt.values is not None and own.keys is not None and own.values is not None
    groups.completions[0].update(own.keys, own.values)
    keys, values = prompt.keys[OWNER], prompt.values[OWNER]
    groups.select(keep)  # prompts without rows leave
    block, query = nn.Module(), torch.randn(len(rows), HEADS * queries, 1, WIDTH)
    block.layer_idx = 0  # type: ignore[assignment]
    mine = groups.completions[0]
    assert mine.keys is not None and mine.values is not None
    found, _ = prefix_attention(block, query, mine.keys, mine.values, None, groups=groups, scaling=0.3)

    keys = torch.cat([keys, own.keys], 2)[keep].repeat_interleave(queries, 1)
    values = torch.cat([values, own.values], 2)[keep].repeat_interleave(queries, 1)
    seen = torch.cat([MASKS[mask][OWNER], torch.ones(len(OWNER), TOKENS, dtype=torch.bool)], 1)[keep]
    expected = nn.functional.scaled_dot_product_attention(query, keys, values, seen[:, None, None], scale=0.3)
    torch.testing.assert_close(found, expected.transpose(1, 2), atol=1e-6, rtol=1e-5)


def asked(group: int = 6) -> list[Request]:
    prompts = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14]]
    return [Request(Prompt(str(ids)), ids, [100 * n + m for m in range(group)]) for n, ids in enumerate(prompts)]


def sample(lm: nn.Module, requests: list[Request], **settings: Any) -> list[Rollout]:
    return LoopSampler().sample(lm, tokenizer(), requests, SamplingParams(30, **settings))


def models() -> dict[str, PreTrainedModel]:
    config = LlamaConfig(
        vocab_size=30, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.3, eos_token_id=1, bos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    return {
        **{architecture: tiny_lm(architecture, scale=3, vocabulary=30) for architecture in ARCHITECTURES},
        "shared key heads": build_lm(config).eval(),
    }


@pytest.mark.parametrize("name", models())
def test_the_text_is_that_of_rows_with_prompts_of_their_own(name: str) -> None:
    lm = models()[name]
    assert can_share_prefix(lm)
    shared = sample(lm, asked())
    lm.set_attn_implementation("eager")
    assert not can_share_prefix(lm)
    own = sample(lm, asked())
    assert len({len(rollout.completion_ids) for rollout in own}) > 5  # rows leave at different steps
    for a, b in zip(shared, own, strict=True):
        assert a.completion_ids.tolist() == b.completion_ids.tolist()
        torch.testing.assert_close(a.logprobs, b.logprobs, atol=1e-5, rtol=0)


def test_wishes_that_this_attention_does_not_know_are_refused() -> None:
    groups = Groups(Cache(layers=[filled(3, 4, seed=0)]), MASKS["one length"], OWNER, TOKENS)
    block, rows = nn.Module(), torch.zeros(len(OWNER), HEADS, 1, WIDTH)
    block.layer_idx = 0  # type: ignore[assignment]
    prefix_attention(block, rows, rows, rows, None, groups=groups, dropout=0.0, sliding_window=None)
    with pytest.raises(NotImplementedError, match="sliding_window"):
        prefix_attention(block, rows, rows, rows, None, groups=groups, sliding_window=4)
    with pytest.raises(NotImplementedError, match="attention_mask"):
        prefix_attention(block, rows, rows, rows, torch.zeros(1), groups=groups)


def test_adapters_sample_this_way_too() -> None:
    lm = add_lora(tiny_lm(scale=3, vocabulary=30), Lora(r=2)).eval()
    torch.manual_seed(0)
    for parameter in lm.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.3)
    shared = sample(lm, asked())
    lm.get_base_model().set_attn_implementation("eager")  # type: ignore[operator]
    assert [r.completion_ids.tolist() for r in shared] == [r.completion_ids.tolist() for r in sample(lm, asked())]


def test_a_prompt_is_kept_once_for_its_group() -> None:
    prompt = filled(3, 4, seed=0)
    groups = Groups(Cache(layers=[prompt]), MASKS["one length"], OWNER, TOKENS)
    groups.completions[0].update(*2 * (torch.zeros(len(OWNER), HEADS, 1, WIDTH),))
    assert groups.completions[0].keys is not None and prompt.keys is not None
    assert groups.completions[0].keys.shape == (len(OWNER), HEADS, TOKENS, WIDTH)
    assert prompt.keys.shape == (3, HEADS, 4, WIDTH)


def test_other_precisions_and_attention_keep_the_library_kernel() -> None:
    assert not can_share_prefix(tiny_lm().bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        assert not can_share_prefix(tiny_lm())


def test_attention_is_as_before_afterwards_whatever_happens() -> None:
    lm = tiny_lm()
    with pytest.raises(RuntimeError, match="stop"), prefix_decoding(lm):
        assert lm.config._attn_implementation != "sdpa"
        raise RuntimeError("stop")
    assert lm.config._attn_implementation == "sdpa"
