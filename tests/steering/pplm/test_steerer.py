"""PPLM on caches: against the published loop, rows beside each other, padding, architectures, cost."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Gemma3TextConfig, LlamaConfig, MambaConfig, MistralConfig, PreTrainedModel, Qwen3NextConfig

from benchmarks.steering.published import Published, generate
from lit_narrative.errors import UserError
from lit_narrative.lm.load import Lora, add_lora, base_lm, build_lm
from lit_narrative.lm.sampler import LoopSampler, Request, SamplingParams
from lit_narrative.steering.bags import BagOfWords, BagsOfRows, ColumnBag
from lit_narrative.steering.heads import Target
from lit_narrative.steering.pplm.settings import PPLMSettings
from lit_narrative.steering.pplm.steerer import PPLM, PPLMDecoding
from lit_narrative.steering.sampler import SteeredSampler, Texts, TooStrong, frozen, lay_out_prompts
from lit_narrative.views import Prompt
from tests.helpers import ARCHITECTURES, requests, tiny_lm, tokenizer

BAG = BagOfWords("bag", ("a", "b", "c"), (7, 21, 64), (1.0, 1.0, 2.0))
BAGS = BagsOfRows([BAG], [1.0])
STEP = PPLMSettings(stepsize=0.1)
SIZES: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": None,
}
PROMPTS = [[5, 9, 14, 3, 77, 2, 31], [8, 4], [11], [50, 51, 52, 53]]


def target(width: int = 16) -> Target:
    generator = torch.Generator().manual_seed(1)
    return Target(torch.randn(3, width, generator=generator), torch.zeros(3), 2, 1.0, ("x", "y", "z"))


def sliding() -> PreTrainedModel:
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    return build_lm(Gemma3TextConfig(**SIZES, head_dim=8, sliding_window=4, layer_types=kinds)).eval()


MODELS = {
    "gpt2": lambda: tiny_lm("gpt2", scale=3.0),
    "llama, grouped heads": lambda: build_lm(LlamaConfig(**SIZES)).eval(),
    "mistral, sliding": lambda: build_lm(MistralConfig(**SIZES, sliding_window=4)).eval(),
    "gemma3, mixed": sliding,
    "lora": lambda: add_lora(build_lm(LlamaConfig(**SIZES)), Lora()).eval(),
}


def texts(prompts: Sequence[Sequence[int]], columns: Sequence[dict[str, Any]] | None = None) -> Texts:
    rows = [Request(Prompt("", (columns or [{}] * len(prompts))[n]), ids, [n]) for n, ids in enumerate(prompts)]
    return lay_out_prompts(rows, SamplingParams(8), torch.device("cpu"))


@torch.no_grad()
def greedy(lm: nn.Module, prompts: Sequence[Sequence[int]], steerer: PPLM, steps: int = 5) -> tuple[Any, PPLMDecoding]:
    """(steps, B, V) log-scores along the greedy continuations of (B,) prompts."""
    with frozen(lm):
        writing, token, found = steerer.begin(base_lm(lm), texts(prompts)), None, []
        for _ in range(steps):
            found.append(writing.scores(token).steered)
            token = found[-1].argmax(-1)
    return torch.stack(found), writing


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"kl_scale": 2.0, "stepsize": 0.2, "num_iterations": 4},
        {"window_length": 3, "decay": True, "gamma": 1.0},
        {"gm_scale": 0.5, "kl_scale": 0.0},
        {"horizon_length": 2, "gamma": 1.0, "head": True},
    ],
)
def test_as_the_published_loop(parameters: dict[str, Any]) -> None:
    given = {"stepsize": 0.1, **parameters}
    lm, wanted = tiny_lm("gpt2", scale=3.0).requires_grad_(False), [target()] if given.pop("head", False) else []
    head = nn.Linear(16, 3).requires_grad_(False)
    head.load_state_dict({"weight": target().weight, "bias": target().bias})
    ids = [7, 21, 64, 64]
    options = Published(**given, bags=[ids], head=head if wanted else None, label=2, temperature=0.8)
    trace = generate(lm, PROMPTS[0], 5, options)
    settings = PPLMSettings(**given, window_anchor="oldest", temperature_on="steered")
    cold = texts(PROMPTS[:1])
    cold = Texts(cold.ids, cold.mask, cold.owner, cold.columns, 8, 0.8)
    with torch.no_grad():
        writing, token = PPLM(settings, BAGS, wanted).begin(lm, cold), None
        for expected, losses in zip(trace.fused, trace.losses, strict=True):
            found = writing.scores(token).steered[0].exp()
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
            torch.testing.assert_close(torch.stack(writing.losses)[:, 0], torch.tensor(losses), atol=1e-4, rtol=0)
            token = found.argmax(-1, True)


@pytest.mark.parametrize(
    "parameters",
    [
        pytest.param({}, marks=pytest.mark.slow),
        {"window_length": 2},
        pytest.param({"window_length": 2, "window_anchor": "oldest"}, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("model", MODELS)
def test_a_row_is_steered_the_same_alone_and_beside_others(model: str, parameters: dict[str, Any]) -> None:
    lm, steerer = MODELS[model](), PPLM(PPLMSettings(stepsize=0.1, **parameters), BAGS)
    together, _ = greedy(lm, PROMPTS, steerer)
    for row, prompt in enumerate(PROMPTS):
        alone, _ = greedy(lm, [prompt], steerer)
        torch.testing.assert_close(together[:, row], alone[:, 0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("model", MODELS)
def test_the_bag_gains_on_every_architecture(model: str) -> None:
    lm = MODELS[model]()
    steered, _ = greedy(lm, [PROMPTS[0]], PPLM(PPLMSettings(stepsize=0.5, gm_scale=1.0), BAGS), steps=3)
    plain, _ = greedy(lm, [PROMPTS[0]], PPLM(PPLMSettings(stepsize=0.0), BAGS), steps=1)
    mass = [scores[0, 0].softmax(-1)[list(BAG.ids)].sum() for scores in (steered, plain)]
    assert mass[0] > 1.01 * mass[1]


def test_rows_with_a_head_are_steered_the_same_too() -> None:
    lm, steerer = (
        tiny_lm("llama", scale=3.0),
        PPLM(PPLMSettings(stepsize=0.1, gamma=1.0, horizon_length=2), None, [target()]),
    )
    together, _ = greedy(lm, PROMPTS, steerer)
    for row, prompt in enumerate(PROMPTS):
        alone, _ = greedy(lm, [prompt], steerer)
        torch.testing.assert_close(together[:, row], alone[:, 0], atol=1e-4, rtol=1e-4)


def test_rows_may_have_bags_of_their_own() -> None:
    other = BagOfWords("other", ("d",), (50,), (1.0,))
    bags = BagsOfRows([ColumnBag("topic", lambda words: {"x": BAG, "y": other}[next(iter(words))])], [1.0])
    lm = tiny_lm("llama", scale=3.0)
    with torch.no_grad(), frozen(lm):
        given = texts(PROMPTS[:1] * 2, [{"topic": "x"}, {"topic": "y"}])
        mixed = PPLM(STEP, bags).begin(lm, given).scores(None).steered
        for row, bag in enumerate((BAG, other)):
            single = PPLM(STEP, BagsOfRows([bag], [1.0])).begin(lm, texts(PROMPTS[:1])).scores(None).steered
            torch.testing.assert_close(mixed[row], single[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    "parameters", [{"stepsize": 0.0}, {"stepsize": 0.1, "num_iterations": 0}, {"stepsize": 0.1, "gm_scale": 0.0}]
)
def test_without_steps_the_plain_tokens_come_out(architecture: str, parameters: dict[str, Any]) -> None:
    lm, params = tiny_lm(architecture, scale=3.0), SamplingParams(12, temperature=0.8, top_k=40)
    steered = SteeredSampler(PPLM(PPLMSettings(**parameters), BAGS)).sample(lm, tokenizer(), requests(), params)
    plain = LoopSampler().sample(lm, tokenizer(), requests(), params)
    assert [rollout.completion_ids.tolist() for rollout in steered] == [r.completion_ids.tolist() for r in plain]


@pytest.mark.parametrize("rows", [1, 5])
def test_a_sample_does_not_depend_on_the_batch(rows: int) -> None:
    lm, params = tiny_lm("llama", scale=3.0), SamplingParams(10)
    split, whole = (
        SteeredSampler(PPLM(STEP, BAGS), rows=n).sample(lm, tokenizer(), requests(), params) for n in (rows, 99)
    )
    assert [rollout.completion_ids.tolist() for rollout in split] == [r.completion_ids.tolist() for r in whole]


def test_steps_end_with_grad_length_and_cost_ends_with_them() -> None:
    lm = tiny_lm("llama", scale=3.0)
    _, all_along = greedy(lm, PROMPTS[:1], PPLM(STEP, BAGS), steps=4)
    _, ended = greedy(lm, PROMPTS[:1], PPLM(PPLMSettings(stepsize=0.1, grad_length=2), BAGS), steps=4)
    fresh = PPLMSettings(stepsize=0.1, grad_length=2, carry_over=False)
    scores, forgotten = greedy(lm, PROMPTS[:1], PPLM(fresh, BAGS), steps=4)
    assert (all_along.passes, ended.passes, forgotten.passes) == (4 * 8, 2 * 8 + 2 * 2, 2 * 8 + 2 * 1)
    assert ended.losses == []
    plain = lm(torch.cat([torch.tensor(PROMPTS[0]), scores[:3, 0].argmax(-1)])[None]).logits[0, -1].log_softmax(-1)
    torch.testing.assert_close(scores[3, 0], plain, atol=1e-4, rtol=1e-4)


def test_carry_over_and_norm_maximum_change_what_comes() -> None:
    lm = tiny_lm("llama", scale=3.0)
    ways = [{}, {"carry_over": False}, {"norm_maximum": False}]
    found = [greedy(lm, PROMPTS[:1], PPLM(PPLMSettings(stepsize=0.1, **way), BAGS))[0] for way in ways]  # type: ignore[arg-type]
    for other in found[1:]:
        assert (found[0][-1] - other[-1]).abs().max() > 1e-3


def test_weights_are_frozen_within_and_as_before_afterwards() -> None:
    lm = tiny_lm("llama")
    some = next(lm.parameters())
    some.requires_grad_(False)
    before = [parameter.requires_grad for parameter in lm.parameters()]
    SteeredSampler(PPLM(STEP, BAGS)).sample(lm, tokenizer(), requests(group=1), SamplingParams(2))
    assert [parameter.requires_grad for parameter in lm.parameters()] == before
    assert all(parameter.grad is None for parameter in lm.parameters())
    with frozen(lm):
        assert not any(parameter.requires_grad for parameter in lm.parameters())


def test_it_steers_within_inference_mode() -> None:
    lm, params = tiny_lm("llama", scale=3.0), SamplingParams(6)
    outside = SteeredSampler(PPLM(STEP, BAGS), BAGS).sample(lm, tokenizer(), requests(), params)
    with torch.inference_mode():
        inside = SteeredSampler(PPLM(STEP, BAGS), BAGS).sample(lm, tokenizer(), requests(), params)
    assert [rollout.text for rollout in inside] == [rollout.text for rollout in outside]


def test_a_step_that_is_too_large_is_named() -> None:
    steerer = PPLM(PPLMSettings(stepsize=1e38, gamma=3.0, norm_maximum=False), BAGS)
    with pytest.raises(TooStrong, match=r"model\.pplm\.stepsize"):
        SteeredSampler(steerer).sample(tiny_lm("llama", scale=3.0), tokenizer(), requests(), SamplingParams(4))


@pytest.mark.parametrize(
    "config",
    [
        MambaConfig(vocab_size=100, hidden_size=16, num_hidden_layers=1, state_size=4, pad_token_id=None),
        Qwen3NextConfig(**{**SIZES, "num_hidden_layers": 4}, head_dim=8, num_experts=2, moe_intermediate_size=8),
    ],
)
def test_other_state_than_keys_and_values_is_refused(config: Any) -> None:
    lm = build_lm(config, attention="eager").eval()
    with pytest.raises(UserError, match="keep other state"):
        PPLM(STEP, BAGS).begin(lm, texts(PROMPTS))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"stepsize": -1.0}, "stepsize"),
        ({"num_iterations": -1}, "num_iterations"),
        ({"gm_scale": 1.5}, "gm_scale"),
        ({"decay": True}, "window_length"),
        ({"horizon_length": 0}, "horizon_length"),
        ({"target_kl": 0.0}, "target_kl"),
    ],
)
def test_parameters_are_checked(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PPLMSettings(**parameters)


def test_nothing_to_steer_to_is_an_error() -> None:
    with pytest.raises(UserError, match="attributes"):
        PPLM(STEP)


def test_auto_is_no_number() -> None:
    with pytest.raises(UserError, match="auto"):
        PPLMSettings().step  # noqa: B018
