"""Examples side by side in rows: what is computed for each is what is computed for it alone."""

from typing import Any

import pytest
import torch
from torch import nn

from lit_narrative.lm.fast.packed_forward import packed_states, share_rows, supports_packing
from lit_narrative.lm.load import Lora, add_lora, base_lm
from lit_narrative.lm.logprobs import CompletionBatch, completion_batch, score_completions
from tests.helpers import ARCHITECTURES, tiny_lm

LENGTHS = [(3, 9), (1, 4), (5, 20), (2, 1), (4, 7), (1, 1), (6, 2)]
"""Tokens of prompts and completions."""


def batch(seed: int = 0) -> CompletionBatch:
    draw = torch.Generator().manual_seed(seed)
    rows = [
        (torch.randint(3, 200, (p,), generator=draw), torch.randint(3, 200, (c,), generator=draw)) for p, c in LENGTHS
    ]
    return completion_batch([prompt for prompt, _ in rows], [completion for _, completion in rows])


@pytest.mark.parametrize(
    ("lengths", "width", "used"),
    [
        ([5, 3, 2, 2], 8, [7, 5]),
        ([5, 3, 2, 2], 100, [12]),
        ([9, 1, 1], 4, [9, 2]),
        ([4, 4, 4], 4, [4, 4, 4]),
        ([1], 9, [1]),
    ],
)
def test_rows_are_few_and_even(lengths: list[int], width: int, used: list[int]) -> None:
    places = share_rows(lengths, width)
    assert places.used == used
    taken = {(r, s + n) for r, s, k in zip(places.rows, places.starts, lengths, strict=True) for n in range(k)}
    assert len(taken) == sum(lengths) and max(places.used) <= max(width, *lengths)


@pytest.mark.parametrize("adapters", [False, True], ids=["whole", "adapters"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_scores_and_gradients_are_those_of_examples_alone(architecture: str, attention: Any, adapters: bool) -> None:
    lm: nn.Module = tiny_lm(architecture, scale=2.0)
    base_lm(lm).set_attn_implementation(attention)
    if adapters:
        targets = ["c_attn"] if architecture == "gpt2" else ["q_proj", "v_proj"]
        lm = add_lora(lm, Lora(4, target_modules=targets))  # type: ignore[arg-type]
        for name, parameter in lm.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    assert supports_packing(base_lm(lm))
    found = []
    for packing in (None, 30, 1000):
        lm.zero_grad()
        logprobs = score_completions(lm, batch(), packing=packing).logprobs
        loss = -logprobs.mean()
        loss.backward()
        found.append(
            (
                loss.detach(),
                logprobs.detach(),
                {n: p.grad.clone() for n, p in lm.named_parameters() if p.grad is not None},
            )
        )
    alone = found[0]
    for packed in found[1:]:
        torch.testing.assert_close(packed[0], alone[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(packed[1], alone[1], atol=1e-4, rtol=0)
        assert packed[2].keys() == alone[2].keys()
        for name, value in packed[2].items():
            torch.testing.assert_close(value, alone[2][name], atol=1e-5, rtol=1e-3)


def test_a_model_with_a_local_window_keeps_examples_apart_too() -> None:
    """Mistral's window is shorter than the examples here, and so is a part of its mask."""
    from transformers import MistralConfig, MistralForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    lm = MistralForCausalLM(MistralConfig(vocab_size=200, num_key_value_heads=1, sliding_window=4, **sizes)).eval()
    given = batch()._replace(ids=batch().ids.clamp(max=199))
    torch.testing.assert_close(
        score_completions(lm, given, packing=1000).logprobs, score_completions(lm, given).logprobs, atol=1e-4, rtol=0
    )


def test_rows_are_computed_and_not_padding() -> None:
    lm, seen = tiny_lm(), []
    given = batch()
    with lm.get_decoder().register_forward_pre_hook(
        lambda _, a, k: seen.append(k["input_ids"].shape), with_kwargs=True
    ):
        packed_states(lm, given.ids, given.targets, 40)
    (rows, columns), tokens = seen[0], sum(p + c - 1 for p, c in LENGTHS)
    assert rows * columns <= 1.1 * tokens < 0.5 * given.ids.numel()


def test_a_model_that_mixes_examples_is_found_out() -> None:
    """One that is blind to position ids, as those that carry a state from token to token are."""
    lm = tiny_lm("gpt2")
    decoder = lm.get_decoder()
    plain = decoder.forward

    def blind(*args: Any, position_ids: Any = None, **kwargs: Any) -> Any:
        return plain(*args, **kwargs)

    decoder.forward = blind
    assert not supports_packing(lm)
