"""Log-probabilities of completions, against the model's own logits."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import CONFIG_MAPPING, PreTrainedModel

from lit_narrative.errors import UserError
from lit_narrative.lm.load import Lora, add_lora, base_lm, build_lm
from lit_narrative.lm.logprobs import (
    CompletionBatch,
    TokenScores,
    check_output_layer,
    completion_batch,
    score_completions,
    to_rows,
)
from tests.helpers import ARCHITECTURES, tiny_lm
from tests.rewards import VOCABULARY

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
    ids, targets, *_ = completion_batch([[5, 6], torch.tensor([7])], [[8], torch.tensor([9, 1])])
    assert ids.tolist() == [[5, 6, 8], [7, 9, 1]]
    assert targets.tolist() == [[False, False, True], [False, True, True]]
    uneven = completion_batch([[5, 6], [7]], [[8], [9]])
    assert uneven.ids.tolist() == [[5, 6, 8], [7, 9, 0]]
    assert uneven.targets.tolist() == [[False, False, True], [False, True, False]]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_equals_the_full_logits(architecture: str, temperature: float) -> None:
    lm = tiny_lm(architecture, scale=4)
    found = score_completions(lm, batch(), temperature=temperature, entropy=True)
    torch.testing.assert_close(found, reference(lm, temperature), atol=1e-5, rtol=0)
    assert score_completions(lm, batch()).entropy is None


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
@pytest.mark.parametrize("workspace", [3 * VOCABULARY, 100 * VOCABULARY])
def test_values_are_those_of_the_state_before_the_token(architecture: str, workspace: int) -> None:
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
    found = score_completions(lm, batch(), workspace=workspace, value_head=head).values
    assert found is not None
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    want, have = gradients(lm, expected.square().sum()), gradients(lm, found.square().sum())
    assert have.keys() == want.keys()
    for name, value in have.items():
        torch.testing.assert_close(value, want[name], atol=1e-5, rtol=1e-4)


def with_bias() -> nn.Module:
    lm = unusual("phi")
    nn.init.normal_(lm.lm_head.bias)
    return lm


def with_adapters(*layers: str) -> nn.Module:
    lm = add_lora(tiny_lm(scale=4, tie_embeddings=False), Lora(r=2, target_modules=list(layers))).eval()
    for name, parameter in lm.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    return lm


HEADS = {
    "tied": lambda: tiny_lm(scale=4),
    "untied": lambda: tiny_lm("gpt2", scale=4, tie_embeddings=False),
    "frozen": lambda: with_adapters("q_proj"),
    "adapters on it": lambda: with_adapters("lm_head"),
    "bias": with_bias,
    "cap": lambda: unusual("gemma2", **UNUSUAL["gemma2"]),
    "scale": lambda: unusual("cohere", **UNUSUAL["cohere"]),
}


LOSSES: dict[str, Callable[[TokenScores, torch.Tensor], Any]] = {
    "logprobs": lambda scores, weights: (scores.logprobs * weights[0]).sum(),
    "entropy": lambda scores, weights: (scores.entropy * weights[1]).sum(),  # type: ignore[operator]
    "both": lambda scores, weights: LOSSES["logprobs"](scores, weights) + LOSSES["entropy"](scores, weights),
}


@pytest.mark.parametrize(
    ("head", "positions", "loss"),
    [*((head, 3, "both") for head in HEADS), *product(["tied"], [1, 3, 10, 100], ["logprobs", "entropy"])],
)
def test_gradients_are_those_of_the_full_logits_whatever_is_in_memory_at_once(
    head: str, positions: int, loss: str
) -> None:
    torch.manual_seed(0)
    lm = HEADS[head]().double()
    ids, targets, *_ = batch()
    distributions = torch.log_softmax(lm(ids).logits[:, :-1][targets[:, 1:]] / 0.7, -1)
    entropy = -(distributions.exp() * distributions).sum(-1)
    expected = TokenScores(distributions.gather(-1, ids[targets][:, None]).squeeze(-1), entropy)
    workspace = positions * base_lm(lm).config.vocab_size + 5
    found = score_completions(lm, batch(), temperature=0.7, entropy=True, workspace=workspace)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
    weights = torch.randn(2, len(entropy), dtype=torch.float64)
    want, have = (gradients(lm, LOSSES[loss](scores, weights)) for scores in (expected, found))
    assert have.keys() == want.keys()
    for name, value in have.items():
        torch.testing.assert_close(value, want[name], atol=1e-11, rtol=1e-9)


class LargestLogits(TorchDispatchMode):
    """The most elements of any tensor that has a vocabulary's entries for each of some positions."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary, self.elements = vocabulary, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.shape[-1:] == (self.vocabulary,):
                self.elements = max(self.elements, tensor.numel())
        return result


@pytest.mark.parametrize("vocabulary", [1000, 5000])
@pytest.mark.parametrize("entropy", [False, True])
def test_neither_logits_nor_their_gradients_exceed_the_workspace(vocabulary: int, entropy: bool) -> None:
    lm, workspace = tiny_lm(vocabulary=vocabulary), 90_000
    rows = completion_batch([[5, 6]] * 8, [range(20, 40)] * 8)
    with LargestLogits(vocabulary) as seen:
        scores = score_completions(lm, rows, workspace=workspace, entropy=entropy)
        (scores.logprobs.sum() + (scores.entropy.sum() if scores.entropy is not None else 0)).backward()
    assert workspace / 2 < seen.elements <= workspace
    with LargestLogits(vocabulary) as seen, torch.no_grad():
        score_completions(lm, rows, workspace=workspace, entropy=entropy)
    assert workspace / 2 < seen.elements <= workspace


def test_a_position_is_scored_even_if_its_logits_exceed_the_workspace() -> None:
    lm = tiny_lm(scale=4)
    torch.testing.assert_close(score_completions(lm, batch(), workspace=1), score_completions(lm, batch()))


def test_impossible_tokens_have_neither_entropy_nor_gradients_that_are_no_numbers() -> None:
    lm = with_bias()
    with torch.no_grad():
        lm.lm_head.bias[50:] = -torch.inf
    scores = score_completions(lm, batch(), entropy=True)
    assert scores.entropy is not None
    found = gradients(lm, scores.logprobs.sum() + scores.entropy.sum())
    assert all(gradient.isfinite().all() for gradient in found.values())
    torch.testing.assert_close(found["lm_head.bias"][50:], torch.zeros(10))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_stands_on_the_right_has_no_influence(architecture: str) -> None:
    lm = tiny_lm(architecture, scale=4)
    ids, targets, *_ = batch()
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


@pytest.mark.parametrize("cap", [0.1, 30.0])  # the second is far above the logits of a model that is not trained
def test_an_architecture_that_scales_logits_in_an_unknown_way_is_refused(cap: float) -> None:
    lm = unusual("recurrent_gemma", num_hidden_layers=3, lru_width=16, logits_soft_cap=cap)
    lm.lm_head.weight.data.div_(10)
    with pytest.raises(UserError, match="recurrent_gemma"):
        check_output_layer(lm)


@pytest.mark.parametrize("completions", [[[], []], [[], [7]]])
def test_completions_may_be_empty(completions: list[list[int]]) -> None:
    scores = score_completions(tiny_lm(), completion_batch([[3, 4], [3, 4]], completions), entropy=True)
    assert len(scores.logprobs) == len(scores.entropy) == sum(map(len, completions))  # type: ignore[arg-type]


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
