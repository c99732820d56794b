"""Our own decoding step of a Llama against that of transformers."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, PreTrainedModel

from lit_narrative.lm.fast.llama_decoding import can_fuse
from lit_narrative.lm.load import Lora, add_lora, base_lm, build_lm
from lit_narrative.lm.sampler import (
    Decoded,
    LoopSampler,
    Request,
    SamplingParams,
    Way,
    _decode,
    supports_fused_decoding,
)
from lit_narrative.views import Prompt
from tests.helpers import requests, tiny_lm, tokenizer

ROPE = {
    "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "linear": {"factor": 2.0},
    "dynamic": {"factor": 2.0},
}


def llama(rope: str = "default", **settings: Any) -> PreTrainedModel:
    """Two blocks whose choices are not even, with one key head for two query heads."""
    parameters = {"rope_type": rope, "rope_theta": 100.0, "original_max_position_embeddings": 32, **ROPE.get(rope, {})}
    config = LlamaConfig(
        vocab_size=40, hidden_size=32, intermediate_size=56, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.3, rope_parameters=parameters,
        bos_token_id=None, pad_token_id=None, eos_token_id=1, **settings,
    )  # fmt: skip
    lm, generator = build_lm(config).eval(), torch.Generator().manual_seed(0)
    for name, weight in lm.named_parameters():
        if weight.ndim == 1:
            nn.init.normal_(weight, 1.0 if "norm" in name else 0.0, 0.3, generator)
    return lm


def asked(groups: tuple[int, ...] = (4, 1, 3)) -> list[Request]:
    prompts = [[5, 6, 7], [8, 9], [9, 10, 11, 12, 13, 14]]
    return [
        Request(Prompt(str(ids)), ids, [10 * place + n for n in range(count)])
        for place, (ids, count) in enumerate(zip(prompts, groups, strict=True))
    ]


def decoded(lm: PreTrainedModel, way: Way, groups: tuple[int, ...] = (4, 1, 3)) -> Decoded:
    with torch.no_grad():
        return _decode(lm, [1, 2, 3], asked(groups), SamplingParams(40), way)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"attention_bias": True, "mlp_bias": True},
        {"head_dim": 10, "tie_word_embeddings": True},
        {"rope": "linear"},
        {"rope": "llama3"},
    ],
    ids=str,
)
def test_it_samples_what_the_model_samples(settings: dict[str, Any]) -> None:
    lm = llama(**settings)
    assert can_fuse(lm) and supports_fused_decoding(lm)
    # Texts end at different steps, so that rows, and then prompts, leave the batch.
    for groups in ((4, 1, 3), (1, 1, 1)):
        found, expected = decoded(lm, "fused", groups), decoded(lm, "copied", groups)
        assert len(set(found.lengths.tolist())) > 1
        for row, length in enumerate(found.lengths.tolist()):
            assert found.ids[row, :length].equal(expected.ids[row, :length])
            torch.testing.assert_close(
                found.logprobs[row, :length], expected.logprobs[row, :length], atol=2e-5, rtol=1e-5
            )


def test_it_samples_by_the_weights_as_they_are_now() -> None:
    lm = llama()
    before = decoded(lm, "fused").ids
    with torch.no_grad():
        lm.model.layers[0].self_attn.q_proj.weight.mul_(-1)  # type: ignore[union-attr]
    assert not decoded(lm, "fused").ids.equal(before)
    assert decoded(lm, "fused").ids.equal(decoded(lm, "shared").ids)


def test_what_it_does_not_know_is_left_to_the_library() -> None:
    assert can_fuse(tiny_lm("llama")) and not can_fuse(tiny_lm("gpt2"))
    assert not can_fuse(llama("dynamic"))
    assert not can_fuse(base_lm(add_lora(tiny_lm("llama"), Lora(r=2))))
    assert not can_fuse(llama(hidden_act="gelu"))
    with torch.autocast("cpu"):
        assert not can_fuse(tiny_lm("llama"))


def test_a_hook_sees_every_token() -> None:
    lm, seen = tiny_lm("llama"), []
    LoopSampler().sample(lm, tokenizer(), requests(), SamplingParams(4))
    block = lm.model.layers[1]  # type: ignore[union-attr]
    with block.register_forward_hook(lambda *_: seen.append(1)):
        LoopSampler().sample(lm, tokenizer(), requests(), SamplingParams(4))
    assert len(seen) == 4
