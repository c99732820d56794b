"""Prompts that rows share are read once, and nothing else changes."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    MistralConfig,
    MptConfig,
    PretrainedConfig,
    PreTrainedModel,
)

from lit_narrative.lm.fast.prefix_forward import completion_states, shared_prompts, supports_shared_prompts
from lit_narrative.lm.load import Lora, add_lora, base_lm, build_lm
from lit_narrative.lm.logprobs import CompletionBatch, completion_batch, score_completions
from lit_narrative.lm.vectors.inject import InjectionSettings, add_injector
from tests.helpers import ARCHITECTURES, tiny_lm, tokenizer

SAME_LENGTH = [[5, 6, 7, 8, 9, 10], [11, 12, 13, 14, 15, 16]]
UNEVEN = [[5, 6, 7, 8, 9, 10, 11, 12], [3], [5, 6, 7]]
LENGTHS = [3, 1, 7, 4]


def group(prompts: list[list[int]], lengths: list[int] = LENGTHS, seed: int = 0) -> tuple[list[Any], list[Any]]:
    """Every prompt with a completion of every length, the groups dealt like cards."""
    generator = torch.Generator().manual_seed(seed)
    return [prompt for _ in lengths for prompt in prompts], [
        torch.randint(2, 60, (length,), generator=generator) for length in lengths for _ in prompts
    ]


def model(architecture: str) -> PreTrainedModel:
    lm = tiny_lm(architecture, scale=3).double()
    assert supports_shared_prompts(lm)  # tried here, so that positions are counted without it
    return lm


def states(lm: PreTrainedModel, batch: CompletionBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor], int]:
    """Hidden states, gradients of a loss of them all, and how many positions were computed."""
    positions = 0

    def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal positions
        positions += inputs[0].numel()

    handle = lm.get_input_embeddings().register_forward_hook(count)
    hidden = completion_states(lm, *batch[:3])
    handle.remove()
    lm.zero_grad()
    (hidden.sin() * torch.arange(1, len(hidden) + 1)[:, None]).sum().backward()
    return hidden.detach(), {name: p.grad.clone() for name, p in lm.named_parameters() if p.grad is not None}, positions


def row_by_row(lm: PreTrainedModel, batch: CompletionBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The same from one row at a time, which shares nothing."""
    parts = [lm.get_decoder()(input_ids=row[None]).last_hidden_state[0, :-1] for row in batch.ids]
    hidden = torch.cat([part[targets[1:]] for part, targets in zip(parts, batch.targets, strict=True)])
    lm.zero_grad()
    (hidden.sin() * torch.arange(1, len(hidden) + 1)[:, None]).sum().backward()
    return hidden.detach(), {name: p.grad.clone() for name, p in lm.named_parameters() if p.grad is not None}


def assert_alike(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Gradients but for rounding (llama's norms compute in float32 even in a float64 model)."""
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert (value - expected[name]).norm() <= 1e-6 * expected[name].norm(), name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("prompts", [SAME_LENGTH, UNEVEN], ids=["same length", "uneven"])
def test_states_and_gradients_are_those_of_rows_alone(architecture: str, prompts: list[list[int]]) -> None:
    lm, batch = model(architecture), completion_batch(*group(prompts))
    found, gradients, positions = states(lm, batch)
    expected, expected_gradients = row_by_row(lm, batch)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)
    assert_alike(gradients, expected_gradients)
    longest = max(map(len, prompts))
    assert positions == len(prompts) * longest + len(batch.ids) * (max(LENGTHS) - 1) < batch.ids.numel()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_completions_of_one_token_need_the_prompts_alone(architecture: str) -> None:
    lm, batch = model(architecture), completion_batch(*group(UNEVEN, [1, 1, 1]))
    found, _, positions = states(lm, batch)
    torch.testing.assert_close(found, row_by_row(lm, batch)[0], atol=1e-10, rtol=0)
    assert positions == len(UNEVEN) * len(UNEVEN[0])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_targets_with_gaps(architecture: str) -> None:
    """Only some tokens behind the first target are asked for, and none of the last columns."""
    batch = completion_batch(*group(UNEVEN, [6, 6, 6, 6]))
    targets = batch.targets.clone()
    targets[::2, 4:6] = False
    ids, targets = nn.functional.pad(batch.ids, (0, 3), value=9), nn.functional.pad(targets, (0, 3))
    lm, thinned = model(architecture), CompletionBatch(ids, targets)
    found, _, positions = states(lm, thinned)
    torch.testing.assert_close(found, row_by_row(lm, thinned)[0], atol=1e-10, rtol=0)
    assert positions < ids.numel() / 2


def test_a_batch_taken_apart() -> None:
    assert shared_prompts(*completion_batch([[5, 6], [5]], [[20, 21], [22]])[:3]) is None  # nothing is shared
    long = [[*range(20, 60)]] * 2
    assert shared_prompts(*completion_batch([[5, 6]] * 2, long)[:3]) is None  # 2 + 2 x 39 positions for 2 x 42: no use
    apart = shared_prompts(*completion_batch([[5, 6, 7]] * 3 + [[5, 6]] * 3, [[20], [21, 22], [23]] * 2)[:3])
    assert apart is not None
    assert sorted(map(tuple, apart.prompts.tolist())) == [(0, 5, 6), (5, 6, 7)]
    assert apart.mask[apart.owner].sum(1).tolist() == [3, 3, 3, 2, 2, 2]
    assert apart.completions[apart.targets].tolist() == [20, 21, 22, 23, 20, 21, 22, 23]


def test_equal_prompts_with_different_injections_are_not_shared() -> None:
    prompts, completions = [[5, 6, 7]] * 6, [[20, 21], [22, 23]] * 3
    four, nine = np.full(3, 4.0), np.full((1, 3), 9.0)
    injections = [four, four, nine, nine, None, None]
    apart = shared_prompts(*completion_batch(prompts, completions, injections)[:3])
    assert apart is not None
    assert apart.prompts.tolist() == [[5, 6, 7]] * 3
    assert [apart.owner[n] == apart.owner[n + 1] for n in (0, 2, 4)] == [True] * 3
    assert len(set(apart.owner.tolist())) == 3
    for same in ([four] * 6, [None] * 6, []):
        together = shared_prompts(*completion_batch(prompts, completions, same)[:3])
        assert together is not None
        assert together.prompts.tolist() == [[5, 6, 7]]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_prompt_is_read_once_for_each_injection(architecture: str) -> None:
    lm, (prompts, completions) = model(architecture), group([SAME_LENGTH[0]], [3, 4, 4, 3])
    injector = add_injector(lm, tokenizer(), InjectionSettings(marker="~"))
    injector.marker_id = prompts[0][0]
    one, other = lm.get_input_embeddings().weight.detach()[[prompts[0][0], 2]]
    shared = states(lm, completion_batch(prompts, completions))
    same = states(lm, completion_batch(prompts, completions, [one] * 4))  # what is replaced is what was there
    several = states(lm, completion_batch(prompts, completions, [one, one, other, other]))
    assert shared[2] == same[2] == several[2] - len(SAME_LENGTH[0])
    torch.testing.assert_close(shared[0], same[0], atol=1e-6, rtol=0)
    tokens = len(completions[0]) + len(completions[1])
    torch.testing.assert_close(shared[0][:tokens], several[0][:tokens], atol=1e-6, rtol=0)
    assert (shared[0][tokens:] - several[0][tokens:]).abs().max() > 1e-3


def test_injections_stay_with_their_rows() -> None:
    batch = completion_batch([[5], [6], [7]], [[8], [9], [10]], [np.array([[3.0], [4.0]]), None, np.array([1.0])])
    assert batch.injections is not None
    assert str(batch.injections[..., 0].tolist()) == "[[3.0, 4.0], [nan, nan], [1.0, nan]]"
    kept = batch.to(torch.device("cpu")).select(torch.tensor([2, 0]), 2)
    assert kept.injections is not None
    assert (kept.ids.tolist(), kept.injections[:, 0, 0].tolist()) == ([[7, 10], [5, 8]], [1, 3])
    assert completion_batch([[5]], [[6]], [None]).select(torch.tensor([0]), 2).injections is None


def plain_cases() -> dict[str, tuple[PreTrainedModel, CompletionBatch]]:
    shared = completion_batch(*group(SAME_LENGTH))
    checkpointed, dropout = model("llama"), tiny_lm("gpt2", dropout=0.1).double().train()
    checkpointed.gradient_checkpointing_enable()
    window = MistralConfig(
        vocab_size=60, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, sliding_window=4,
    )  # fmt: skip
    behind_the_first = torch.arange(len(shared.ids))[:, None] > 0
    return {
        "different prompts": (model("gpt2"), completion_batch([[5, 6, 7], [7, 6, 5]], [[8, 9], [10, 11]])),
        "gradient checkpointing": (checkpointed, shared),
        "dropout": (dropout, shared),
        "sliding window": (build_lm(window).eval().double(), shared),
        "a row without targets": (model("gpt2"), CompletionBatch(shared.ids, shared.targets & behind_the_first)),
    }  # fmt: skip


@pytest.mark.parametrize("case", plain_cases())
def test_where_sharing_is_impossible_or_useless_every_row_is_read_whole(case: str) -> None:
    lm, batch = plain_cases()[case]
    found, _, positions = states(lm, batch)
    assert positions == batch.ids.numel()
    if case != "dropout":
        torch.testing.assert_close(found, row_by_row(lm, batch)[0], atol=1e-10, rtol=0)


def by_columns() -> dict[str, PretrainedConfig]:
    """Models that measure how far two tokens are apart by their columns."""
    window: list[Any] = [[["global", "local"], 1]]
    return {
        "a local window": GPTNeoConfig(
            vocab_size=60, hidden_size=16, num_layers=2, num_heads=2, attention_types=window, window_size=4,
            max_position_embeddings=64, bos_token_id=0, eos_token_id=1,
        ),
        "alibi": MptConfig(vocab_size=60, d_model=16, n_layers=2, n_heads=2, max_seq_len=64),
    }  # fmt: skip


@pytest.mark.parametrize("name", by_columns())
def test_tokens_are_as_many_columns_apart_as_in_the_text(name: str) -> None:
    lm = build_lm(by_columns()[name], attention="eager").eval()
    with torch.no_grad():
        for parameter in lm.parameters():
            parameter.mul_(4 if parameter.ndim > 1 else 1)
    assert supports_shared_prompts(lm)
    batch = completion_batch(*group(UNEVEN))
    found, gradients, positions = states(lm, batch)
    expected, expected_gradients = row_by_row(lm, batch)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    for parameter, value in gradients.items():
        assert (value - expected_gradients[parameter]).norm() <= 1e-4 * expected_gradients[parameter].norm() + 1e-5
    assert positions < batch.ids.numel()


class Deaf(GPT2LMHeadModel):
    """Counts its own positions, whatever it is told."""

    def get_decoder(self) -> Any:
        return lambda position_ids=None, **inputs: self.transformer(**inputs)


def test_who_finds_something_else_behind_shared_prompts_reads_every_row_whole() -> None:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=60, n_positions=64, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=1)
    lm, batch = Deaf(config).eval(), completion_batch(*group(UNEVEN))
    assert not supports_shared_prompts(lm)
    torch.testing.assert_close(states(lm, batch)[0], row_by_row(lm, batch)[0], atol=1e-5, rtol=0)


def test_adapters_learn_the_same() -> None:
    lm = add_lora(tiny_lm(scale=4), Lora(r=2)).eval()
    torch.manual_seed(0)
    for name, parameter in lm.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    lm = lm.double()
    batch = completion_batch(*group(UNEVEN))
    expected, found = row_by_row(base_lm(lm), batch)[1], states(base_lm(lm), batch)[1]
    assert all("lora_" in name for name in found)
    assert_alike(found, expected)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_scores_of_groups_are_those_of_rows_alone(architecture: str) -> None:
    lm = tiny_lm(architecture, scale=4)
    prompts, completions = group(UNEVEN)
    found = score_completions(lm, completion_batch(prompts, completions), temperature=0.7, workspace=1500).logprobs
    alone = [
        score_completions(lm, completion_batch([prompt], [completion]), temperature=0.7).logprobs
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
    torch.testing.assert_close(found, torch.cat(alone), atol=1e-5, rtol=0)
