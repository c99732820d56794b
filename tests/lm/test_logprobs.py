"""Log-probabilities of completions, against the model's own logits."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers import CONFIG_MAPPING, PreTrainedModel

from lit_narrative.errors import UserError
from lit_narrative.lm.load import Lora, add_lora, build_lm
from lit_narrative.lm.logprobs import (
    CompletionBatch,
    TokenScores,
    check_output_layer,
    completion_batch,
    score_completions,
    to_rows,
)
from tests.helpers import ARCHITECTURES, tiny_lm

PROMPTS = [[5, 6, 7, 8, 9], [3], [11, 12]]
COMPLETIONS = [[20, 21, 1], [30, 31, 32, 33, 34, 35, 1], [40]]
WIDTHS: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": 1,
}
UNUSUAL: dict[str, dict[str, Any]] = {
    "gemma2": {"head_dim": 8, "query_pre_attn_scalar": 8, "final_logit_softcapping": 0.5, "sliding_window": 8},
    "granite": {"logits_scaling": 4.0},
    "cohere": {"logit_scale": 0.25},
    "gpt_neox": {},
    "phi": {},
    "qwen3": {"head_dim": 8},
}


def batch() -> CompletionBatch:
    return completion_batch(PROMPTS, COMPLETIONS)


def reference(lm: nn.Module, temperature: float = 1.0) -> TokenScores:
    """Row by row from the full logits, no padding."""
    logprobs, entropy = [], []
    for prompt, completion in zip(PROMPTS, COMPLETIONS, strict=True):
        logits = lm(torch.tensor([prompt + completion])).logits[0] / temperature
        for place, token in enumerate(completion, len(prompt)):
            distribution = torch.log_softmax(logits[place - 1], -1)
            logprobs.append(distribution[token])
            entropy.append(-(distribution.exp() * distribution).sum())
    return TokenScores(torch.stack(logprobs), torch.stack(entropy))


def gradients(lm: nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    lm.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in lm.named_parameters() if p.grad is not None}


def test_layout() -> None:
    ids, targets, _ = completion_batch([[5, 6], torch.tensor([7])], [[8], torch.tensor([9, 1])])
    assert ids.tolist() == [[5, 6, 8], [7, 9, 1]]
    assert targets.tolist() == [[False, False, True], [False, True, True]]
    uneven = completion_batch([[5, 6], [7]], [[8], [9]])
    assert uneven.ids.tolist() == [[5, 6, 8], [7, 9, 0]]
    assert uneven.targets.tolist() == [[False, False, True], [False, True, False]]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_equals_the_full_logits(architecture: str, temperature: float) -> None:
    lm = tiny_lm(architecture, scale=4)
    found, expected = score_completions(lm, batch(), temperature=temperature), reference(lm, temperature)
    torch.testing.assert_close(found.logprobs, expected.logprobs, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.entropy, expected.entropy, atol=1e-5, rtol=0)
    assert not found.entropy.requires_grad


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradient_equals_that_of_the_full_logits(architecture: str) -> None:
    lm = tiny_lm(architecture, scale=4)
    weights = torch.linspace(-1, 2, sum(map(len, COMPLETIONS)))
    expected = gradients(lm, (reference(lm).logprobs * weights).sum())
    found = gradients(lm, (score_completions(lm, batch()).logprobs * weights).sum())
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("chunk", [3, 100])
def test_entropy_has_a_gradient_on_demand(architecture: str, chunk: int) -> None:
    lm = tiny_lm(architecture, scale=4)
    weights = torch.linspace(-1, 2, sum(map(len, COMPLETIONS)))
    expected = gradients(lm, (reference(lm, 0.7).entropy * weights).sum())
    scores = score_completions(lm, batch(), temperature=0.7, chunk=chunk, entropy_gradient=True)
    torch.testing.assert_close(scores.entropy, reference(lm, 0.7).entropy, atol=1e-5, rtol=0)
    found = gradients(lm, (scores.entropy * weights).sum())
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("chunk", [3, 100])
def test_values_are_those_of_the_state_before_the_token(architecture: str, chunk: int) -> None:
    lm = tiny_lm(architecture, scale=4)
    torch.manual_seed(0)
    head = nn.Linear(16, 1)
    decoder = lm.get_decoder()
    rows = [
        head(decoder(torch.tensor([prompt + completion])).last_hidden_state[0, len(prompt) - 1 : -1])
        for prompt, completion in zip(PROMPTS, COMPLETIONS, strict=True)
    ]
    expected = torch.cat(rows).squeeze(-1)
    assert score_completions(lm, batch()).values is None
    found = score_completions(lm, batch(), chunk=chunk, value_head=head).values
    assert found is not None
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    want, have = gradients(lm, expected.square().sum()), gradients(lm, found.square().sum())
    assert have.keys() == want.keys()
    for name, value in have.items():
        torch.testing.assert_close(value, want[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("chunk", [1, 3, 10])
def test_chunks_change_neither_values_nor_gradients(chunk: int) -> None:
    lm = tiny_lm(scale=4)
    whole, parts = score_completions(lm, batch()), score_completions(lm, batch(), chunk=chunk)
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=0)
    expected = gradients(lm, whole.logprobs.square().sum())
    found = gradients(lm, parts.logprobs.square().sum())
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_stands_on_the_right_has_no_influence(architecture: str) -> None:
    lm = tiny_lm(architecture, scale=4)
    ids, targets, _ = batch()
    ends = (targets * torch.arange(ids.shape[1])).amax(1, keepdim=True)
    junk = ids.where(torch.arange(ids.shape[1]) <= ends, 17)
    wider = CompletionBatch(nn.functional.pad(junk, (0, 5), value=33), nn.functional.pad(targets, (0, 5)))
    torch.testing.assert_close(
        score_completions(lm, wider).logprobs, score_completions(lm, batch()).logprobs, atol=1e-6, rtol=0
    )


def unusual(name: str, **settings: Any) -> PreTrainedModel:
    """A tiny model of an architecture, with weights large enough for its logits to matter."""
    config = CONFIG_MAPPING[name](**{**WIDTHS, **settings})
    lm = build_lm(config, attention="eager" if "gemma" in name else "sdpa").eval()
    with torch.no_grad():
        for parameter in lm.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    return lm


@pytest.mark.parametrize("name", UNUSUAL)
def test_architectures_that_treat_their_logits_in_their_own_way(name: str) -> None:
    lm = unusual(name, **UNUSUAL[name])
    torch.testing.assert_close(score_completions(lm, batch()).logprobs, reference(lm).logprobs, atol=1e-5, rtol=0)
    check_output_layer(lm)


def test_an_architecture_that_scales_logits_in_an_unknown_way_is_refused() -> None:
    lm = unusual("recurrent_gemma", num_hidden_layers=3, lru_width=16, logits_soft_cap=0.1)
    with pytest.raises(UserError, match="recurrent_gemma"):
        check_output_layer(lm)


def test_adapters_are_scored_too() -> None:
    adapted = add_lora(tiny_lm(scale=4), Lora(r=2)).eval()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.3)
    found = score_completions(adapted, batch()).logprobs
    torch.testing.assert_close(found, reference(adapted).logprobs, atol=1e-5, rtol=0)
    with adapted.disable_adapter():
        assert (found - score_completions(adapted, batch()).logprobs).abs().max() > 1e-3


def test_values_go_back_to_their_rows() -> None:
    mask = torch.tensor([[True, False], [True, True]])
    values = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    rows = to_rows(values, mask)
    assert rows.tolist() == [[1, 0], [2, 3]]
    rows.sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [1, 1, 1]
