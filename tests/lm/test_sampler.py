"""Sampling: the log-probabilities of scoring, independence of the batch, the distribution asked for."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from transformers import CONFIG_MAPPING, MistralConfig, OpenAIGPTConfig, PreTrainedModel

from lit_narrative.errors import UserError
from lit_narrative.lm.fast.prefix_decoding import can_share_prefix
from lit_narrative.lm.load import build_lm, end_ids
from lit_narrative.lm.logprobs import completion_batch, score_completions
from lit_narrative.lm.sampler import (
    LoopSampler,
    Request,
    SamplingParams,
    check_decoding,
    draw_uniforms,
    sample_token,
    supports_prefix_decoding,
)
from lit_narrative.lm.vectors.inject import InjectionSettings, add_injector
from lit_narrative.views import Prompt, Rollout
from tests.helpers import ARCHITECTURES, PROMPTS, requests, tiny_lm, tokenizer
from tests.lm.hf_sampler import HFSampler

END = 1


def sample(lm: PreTrainedModel, asked: list[Request], params: SamplingParams, rows: int = 256) -> list[Rollout]:
    return LoopSampler(rows).sample(lm, tokenizer(), asked, params)


def completions(rollouts: list[Rollout]) -> list[list[int]]:
    return [rollout.completion_ids.tolist() for rollout in rollouts]


def sliding_window() -> PreTrainedModel:
    config = MistralConfig(
        vocab_size=300, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, sliding_window=16, initializer_range=0.3,
    )  # fmt: skip
    return build_lm(config).eval()


def policy(architecture: str) -> PreTrainedModel:
    return sliding_window() if architecture == "mistral" else tiny_lm(architecture, scale=4)


def quick_to_end(architecture: str = "llama") -> PreTrainedModel:
    """Thirty tokens, one of which ends the text."""
    return tiny_lm(architecture, scale=3, vocabulary=30)


def small_requests(group: int = 8) -> list[Request]:
    """Prompts of unequal length within thirty tokens."""
    prompts = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14]]
    return [Request(Prompt(str(ids)), ids, [100 * n + m for m in range(group)]) for n, ids in enumerate(prompts)]


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "mistral"])
@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_logprobs_are_those_of_scoring(architecture: str, temperature: float) -> None:
    lm = policy(architecture)
    rollouts = sample(lm, requests(), SamplingParams(24, temperature))
    batch = completion_batch([r.prompt_ids for r in rollouts], [r.completion_ids for r in rollouts])
    scored = score_completions(lm, batch, temperature=temperature).logprobs
    found = torch.cat([rollout.logprobs for rollout in rollouts])
    assert len({len(rollout.prompt_ids) for rollout in rollouts}) == len(PROMPTS)
    torch.testing.assert_close(found, scored, atol=1e-5, rtol=0)


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "mistral"])
def test_a_completion_does_not_depend_on_its_company(architecture: str) -> None:
    lm, params = policy(architecture), SamplingParams(24)
    together = sample(lm, requests(), params)
    alone = [rollout for prompt in PROMPTS for rollout in sample(lm, requests([prompt]), params)]
    one_by_one = [
        rollout
        for asked in requests()
        for seed in asked.seeds
        for rollout in sample(lm, [Request(asked.prompt, asked.ids, [seed])], params)
    ]
    backwards = sample(lm, requests(PROMPTS[::-1]), params)
    back = [backwards[3 * n + m] for n in reversed(range(len(PROMPTS))) for m in range(3)]
    for other in (
        alone,
        one_by_one,
        back,
        sample(lm, requests(), params, rows=1),
        sample(lm, requests(), params, rows=7),
    ):
        assert completions(other) == completions(together)
        for a, b in zip(other, together, strict=True):
            torch.testing.assert_close(a.logprobs, b.logprobs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rows_that_end_early_leave_the_others_as_they_were(architecture: str) -> None:
    lm, params = quick_to_end(architecture), SamplingParams(40)
    together = sample(lm, small_requests(), params)
    lengths = {len(rollout.completion_ids) for rollout in together}
    assert len(lengths) > 5
    alone = [r for q in small_requests() for s in q.seeds for r in sample(lm, [Request(q.prompt, q.ids, [s])], params)]
    assert completions(alone) == completions(together)


def test_a_longer_limit_goes_on_with_the_same_text() -> None:
    lm = tiny_lm(scale=4)
    short, long = (completions(sample(lm, requests(), SamplingParams(n))) for n in (5, 12))
    assert [ids[:5] for ids in long] == short


def test_order_columns_and_groups() -> None:
    asked = [
        Request(Prompt(text, {"place": n}), ids, seeds)
        for n, (text, ids, seeds) in enumerate([("a", [5], [1, 2]), ("b", [6, 7], [3]), ("c", [8], [4, 5, 6])])
    ]
    rollouts = sample(tiny_lm(), asked, SamplingParams(3), rows=2)
    assert [rollout.prompt for rollout in rollouts] == ["a", "a", "b", "c", "c", "c"]
    assert [rollout.group for rollout in rollouts] == [0, 0, 1, 2, 2, 2]
    assert [rollout.columns["place"] for rollout in rollouts] == [0, 0, 1, 2, 2, 2]
    assert [rollout.prompt_ids.tolist() for rollout in rollouts] == [[5], [5], [6, 7], [8], [8], [8]]
    assert all(
        r.text == tokenizer().decode(r.completion_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        for r in rollouts
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_prompt_is_read_once_for_a_request_and_again_for_another_injection(architecture: str) -> None:
    lm, positions = tiny_lm(architecture), []
    supports_prefix_decoding(lm)  # tried here, so that its positions are not counted
    handle = lm.get_input_embeddings().register_forward_hook(lambda m, inputs, out: positions.append(inputs[0].numel()))
    ids, vectors = [5, 6, 7, 8], np.arange(48, dtype=np.float32).reshape(3, 16)
    add_injector(lm, tokenizer(), InjectionSettings(marker="~")).marker_id = 6
    prompts = [Prompt("p", injection=vector) for vector in vectors]
    together = sample(lm, [Request(prompts[0], ids, [1, 2])], SamplingParams(1))
    apart = sample(lm, [Request(prompts[seed], ids, [seed]) for seed in (1, 2)], SamplingParams(1))
    handle.remove()
    assert positions == [len(ids), 2 * len(ids)]
    carried = [rollout.injection.tolist() for rollout in (*together, *apart) if rollout.injection is not None]
    assert carried == vectors[[0, 0, 1, 2]].tolist()


def test_no_requests_no_rollouts() -> None:
    assert sample(tiny_lm(), [], SamplingParams(3)) == []


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("limit", [1, 12])
def test_ends_and_lengths(architecture: str, limit: int) -> None:
    rollouts = sample(quick_to_end(architecture), small_requests(100), SamplingParams(limit))
    assert {rollout.finished for rollout in rollouts} == {True, False}
    for rollout in rollouts:
        ids = rollout.completion_ids.tolist()
        assert len(rollout.logprobs) == len(ids) <= limit
        assert END not in ids[:-1]
        assert rollout.finished == (ids[-1] == END)
        assert rollout.finished or len(ids) == limit


def test_any_end_of_the_model_ends_a_completion() -> None:
    lm = quick_to_end()
    assert end_ids(lm, tokenizer()) == [END]
    lm.generation_config.eos_token_id = [7, END]
    assert end_ids(lm, tokenizer()) == [END, 7]
    rollouts = sample(lm, small_requests(100), SamplingParams(12))
    last = [int(rollout.completion_ids[-1]) for rollout in rollouts]
    assert {END, 7} < set(last)
    for rollout, token in zip(rollouts, last, strict=True):
        assert not {END, 7} & set(rollout.completion_ids[:-1].tolist())
        assert rollout.finished == (token in (END, 7))
        assert rollout.finished or len(rollout.completion_ids) == 12
    greedy = SamplingParams(12, top_k=1)
    theirs = HFSampler().sample(lm, tokenizer(), small_requests(1), greedy)
    assert completions(sample(lm, small_requests(1), greedy)) == completions(theirs)


# They reshape heads, subtract two attentions, and call their attention in a way of their own.
UNGROUPED: dict[str, dict[str, int]] = {
    "deepseek_v3": {
        "kv_lora_rank": 8, "q_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8,
        "first_k_dense_replace": 2, "n_routed_experts": 2, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 1,
    },
    "diffllama": {},
    "nemotron": {},
}  # fmt: skip


@pytest.mark.parametrize("name", UNGROUPED)
def test_models_with_attention_of_their_own_are_not_grouped(name: str) -> None:
    config = CONFIG_MAPPING[name](
        vocab_size=300, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.2, bos_token_id=None, pad_token_id=None,
        eos_token_id=1, **UNGROUPED[name],
    )  # fmt: skip
    lm = build_lm(config).eval()
    assert can_share_prefix(lm)  # nothing says that they do not
    check_decoding(lm)
    assert not supports_prefix_decoding(lm)
    rollouts = sample(lm, requests(), SamplingParams(16))
    batch = completion_batch([r.prompt_ids for r in rollouts], [r.completion_ids for r in rollouts])
    found = torch.cat([rollout.logprobs for rollout in rollouts])
    torch.testing.assert_close(found, score_completions(lm, batch).logprobs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "mistral"])
def test_models_that_support_cached_decoding_pass(architecture: str) -> None:
    lm = policy(architecture)
    check_decoding(lm)
    assert can_share_prefix(lm) == (architecture != "mistral")
    assert supports_prefix_decoding(lm) or architecture == "mistral"


def test_a_model_that_cannot_read_behind_a_cache_is_refused() -> None:
    config = OpenAIGPTConfig(vocab_size=300, n_positions=64, n_embd=16, n_layer=1, n_head=2)
    lm = build_lm(config, attention="eager").eval()
    with pytest.raises(UserError, match="'openai-gpt' cannot be sampled"):
        check_decoding(lm)


def test_a_model_whose_decoding_finds_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that counts positions of its own."""
    lm = tiny_lm("gpt2", scale=4)
    forward = lm.forward
    monkeypatch.setattr(lm, "forward", lambda position_ids=None, **inputs: forward(**inputs))
    with pytest.raises(UserError, match=r"'gpt2' cannot be sampled .*read at once"):
        check_decoding(lm)


def test_a_model_too_short_for_a_self_check_is_sampled_in_the_plain_way() -> None:
    lm = tiny_lm("gpt2", positions=4)
    check_decoding(lm)
    assert not supports_prefix_decoding(lm)
    assert len(sample(lm, [Request(Prompt("p"), [5], [1, 2])], SamplingParams(3))) == 2


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_most_likely_text_is_that_of_the_library(architecture: str) -> None:
    lm, params = tiny_lm(architecture, scale=4), SamplingParams(12, top_k=1)
    ours, theirs = sample(lm, requests(group=1), params), HFSampler().sample(lm, tokenizer(), requests(group=1), params)
    assert completions(ours) == completions(theirs)
    assert [rollout.text for rollout in ours] == [rollout.text for rollout in theirs]
    assert [rollout.finished for rollout in ours] == [rollout.finished for rollout in theirs]


@pytest.mark.parametrize(
    "params",
    [SamplingParams(1), SamplingParams(1, 0.6), SamplingParams(1, top_k=5), SamplingParams(1, top_p=0.7)],
    ids=["plain", "temperature", "top_k", "top_p"],
)
def test_tokens_come_as_often_as_their_probability_says(params: SamplingParams) -> None:
    lm, count = quick_to_end(), 4000
    rollouts = sample(lm, [Request(Prompt("p"), [5, 6, 7], range(count))], params, rows=count)
    with torch.no_grad():
        probability = torch.softmax(lm(torch.tensor([[5, 6, 7]])).logits[0, -1].double() / params.temperature, -1)
    order = probability.argsort(descending=True)
    kept = order
    if params.top_k:
        kept = order[: params.top_k]
    elif params.top_p < 1:
        kept = order[: int((probability[order].cumsum(0) < params.top_p).sum()) + 1]
    expected = torch.zeros_like(probability)
    expected[kept] = probability[kept] / probability[kept].sum()
    seen = Counter(int(rollout.completion_ids[0]) for rollout in rollouts)
    assert set(seen) <= set(kept.tolist())
    if params.filtered:
        assert len(kept) < len(order)
    likely = [int(token) for token in kept if expected[token] * count >= 5]
    rest = count - sum(seen[token] for token in likely)
    found = [seen[token] for token in likely] + ([rest] if len(likely) < len(kept) else [])
    share = expected[likely].tolist()
    wanted = [p * count for p in share] + ([count * (1 - sum(share))] if len(likely) < len(kept) else [])
    assert chisquare(found, [w * sum(found) / sum(wanted) for w in wanted]).pvalue > 0.001
    for rollout in rollouts[:20]:
        torch.testing.assert_close(rollout.logprobs[0], expected[rollout.completion_ids[0]].log().float())


Logit = st.floats(-30, 30, width=32) | st.just(float("-inf"))
Edge = st.floats(0, 1, exclude_max=True, width=32) | st.sampled_from([0.0, 1 - 2**-24])


@given(st.lists(Logit, min_size=1, max_size=40).filter(lambda row: max(row) > -40), Edge)
def test_a_token_without_probability_is_never_sampled(row: list[float], uniform: float) -> None:
    logits = torch.tensor([row], dtype=torch.float32)
    token, logprob = sample_token(logits, torch.tensor([uniform], dtype=torch.float32))
    assert logits[0, token].isfinite().all()
    torch.testing.assert_close(logprob, torch.log_softmax(logits, -1)[0, token])


def test_the_last_uniform_gives_a_token_whatever_the_rounding() -> None:
    """Rounded sums end a little above or below 1, and the largest uniform times such a sum can be the sum itself."""
    logits = 4 * torch.randn(4000, 300, generator=torch.Generator().manual_seed(0))
    logits[:, -20:] = float("-inf")
    tokens, logprobs = sample_token(logits, torch.full((4000,), 1 - 2**-24))
    assert tokens.max() < 280
    assert logprobs.isfinite().all()


def test_streams_depend_on_their_seed_alone() -> None:
    table = draw_uniforms([3, 4, 3, 2**63 - 1], 6)
    assert torch.equal(table[0], table[2])
    assert not torch.equal(table[0], table[1])
    assert torch.equal(draw_uniforms([4], 3)[0], table[1, :3])
    assert ((table >= 0) & (table < 1)).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "temperature=0.0 must be above 0"),
        ({"max_new_tokens": 0}, "max_new_tokens=0 must be at least 1"),
        ({"top_p": 0.0}, "top_p=0.0 must be above 0 and at most 1"),
        ({"top_p": 1.1}, "top_p=1.1 must be above 0 and at most 1"),
        ({"top_k": -1}, "top_k=-1 must be at least 0"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=rf"^model\.sampling\.{message}"):
        SamplingParams(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rows_may_go_on_behind_their_end(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where one looks every few tokens which of them have ended."""
    lm, params = tiny_lm(architecture, scale=4.0), SamplingParams(40)
    expected = sample(lm, requests(), params)
    assert any(rollout.finished for rollout in expected)
    for every in (7, 1000):
        monkeypatch.setattr("lit_narrative.lm.sampler.CHECK_EVERY", {"cpu": every})
        found = sample(lm, requests(), params)
        assert completions(found) == completions(expected)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one.logprobs, other.logprobs, atol=1e-5, rtol=0)
