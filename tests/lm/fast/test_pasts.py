"""The compiled step: the completions of the other ways, whatever stood in its memory before."""

import pytest
import torch
from transformers import MistralConfig

from lit_narrative.errors import UserError
from lit_narrative.lm.fast import pasts
from lit_narrative.lm.load import Lora, add_lora, build_lm
from lit_narrative.lm.sampler import LoopSampler, SamplingParams
from lit_narrative.views import Rollout
from tests.helpers import ARCHITECTURES, PROMPTS, requests, tiny_lm, tokenizer


def sample(lm: torch.nn.Module, params: SamplingParams, seed: int = 0, prompts: list[str] = PROMPTS) -> list[Rollout]:
    return LoopSampler().sample(lm, tokenizer(), requests(prompts, group=2, seed=seed), params)


def same(found: list[Rollout], expected: list[Rollout]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.text == other.text and torch.equal(one.completion_ids, other.completion_ids)
        torch.testing.assert_close(one.logprobs, other.logprobs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("adapters", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_keys_and_values_at_fixed_places_draw_the_same(
    architecture: str, adapters: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step as it is, not compiled."""
    monkeypatch.setattr(torch, "compile", lambda step, **kwargs: step)
    lm: torch.nn.Module = tiny_lm(architecture, scale=4.0)
    if adapters:
        lm = add_lora(lm, Lora(r=2)).eval()  # type: ignore[arg-type]
    fixed, plain = SamplingParams(12, temperature=0.9, compile=True), SamplingParams(12, temperature=0.9)
    expected = sample(lm, plain)
    same(sample(lm, fixed), expected)
    step = pasts._STEPS[lm]
    for seed in (1, 2):  # with other weights, and what the batch before has left in its memory
        move(lm)
        same(sample(lm, fixed, seed), sample(lm, plain, seed))
    assert pasts._STEPS[lm] is step
    sample(lm, fixed, prompts=PROMPTS[:2])
    assert pasts._STEPS[lm] is not step  # of another number of rows


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_compiled_step_draws_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch._inductor.config.cpp_cache_precompile_headers", False)  # they take a minute
    lm = tiny_lm(scale=4.0, layers=1)
    compiled, plain = SamplingParams(8, temperature=0.9, compile=True), SamplingParams(8, temperature=0.9)
    same(sample(lm, compiled), sample(lm, plain))
    move(lm)
    same(sample(lm, compiled, 1), sample(lm, plain, 1))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1
    assert not torch._dynamo.utils.counters["graph_break"]


@torch.no_grad()
def move(lm: torch.nn.Module) -> None:
    """As an optimizer step would."""
    for parameter in lm.parameters():
        parameter.mul_(1.1)


def test_what_has_no_such_step_is_refused() -> None:
    config = MistralConfig(
        vocab_size=300, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, sliding_window=16,
    )  # fmt: skip
    lm = build_lm(config).eval()
    with pytest.raises(UserError, match=r"model\.sampling\.compile is for models that attend to all positions"):
        sample(lm, SamplingParams(4, compile=True))
