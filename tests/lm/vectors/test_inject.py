"""Injection: what is put at markers is what the model reads, in scoring, sampling, `generate` and training."""

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import Gemma2Config, Gemma3TextConfig, GPT2Config, GPT2LMHeadModel, PreTrainedModel

from lit_narrative.errors import UserError
from lit_narrative.lm.encoding import ExampleReader
from lit_narrative.lm.load import Lora, add_lora, base_lm, build_lm
from lit_narrative.lm.logprobs import completion_batch, score_completions
from lit_narrative.lm.sampler import LoopSampler, Request, SamplingParams, _fastest_way
from lit_narrative.lm.tokenizer import TrainedTokenizer, train_tokenizer
from lit_narrative.lm.vectors.inject import (
    InjectionSettings,
    Injector,
    _Write,
    add_injector,
    choose_marker,
    injecting,
    marker_id,
    stack_injections,
)
from lit_narrative.views import Example, Prompt, Rollout
from tests.helpers import TEXTS, tiny_lm, tokenizer
from tests.paths import GOLDEN

FILE = GOLDEN / "nla.pt"
golden = pytest.mark.golden
MARKER = "~"
TOKEN = tokenizer().convert_tokens_to_ids(MARKER)
WIDTH = 16
ARCHITECTURES = ("gpt2", "llama", "gemma2", "gemma3_text")
PROMPTS = [[5, 6, TOKEN, 7], [TOKEN, 9], [5, 6, TOKEN, 7], [3, TOKEN, 4, TOKEN, 8, 9], [2, 3]]


def vectors(count: int, width: int = WIDTH, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


V = vectors(5)
INJECTIONS = [V[0], V[1], V[2], V[3:5], None]  # the first and the third prompt have equal ids


def language_model(architecture: str, **other: Any) -> PreTrainedModel:
    if architecture in ("gpt2", "llama"):
        return tiny_lm(architecture, scale=3, **other)
    kind = {"gemma2": Gemma2Config, "gemma3_text": Gemma3TextConfig}[architecture]
    config = kind(
        vocab_size=300, hidden_size=WIDTH, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, sliding_window=64, initializer_range=0.3, max_position_embeddings=128,
        eos_token_id=1, pad_token_id=None, bos_token_id=None,
    )  # fmt: skip
    return build_lm(config).eval()


def with_injector(architecture: str = "llama", width: int | None = None, **settings: Any) -> PreTrainedModel:
    lm = language_model(architecture)
    add_injector(lm, tokenizer(), InjectionSettings(marker=MARKER, width=width, **settings))
    return lm


def embeds(lm: PreTrainedModel, ids: list[int], injection: np.ndarray | None, columns: list[int]) -> torch.Tensor:
    """What ``inputs_embeds`` takes: the embeddings of a row with vectors in place of those at ``columns``."""
    states = lm.get_input_embeddings()(torch.tensor([ids])).detach().clone()
    if injection is not None:
        states[0, columns] = torch.tensor(injection).reshape(-1, WIDTH)
    return states


def markers(prompt: list[int]) -> list[int]:
    return [column for column, token in enumerate(prompt) if token == TOKEN]


def reference_logprobs(
    lm: PreTrainedModel, prompts: list[list[int]], completions: list[list[int]], injections: list[Any]
) -> torch.Tensor:
    """Row by row and whole, by the model's own forward pass."""
    found = []
    for prompt, completion, injection in zip(prompts, completions, injections, strict=True):
        states = embeds(lm, [*prompt, *completion], injection, markers(prompt))
        logits = lm(inputs_embeds=states, use_cache=False).logits[0, len(prompt) - 1 : -1]
        found.append(torch.log_softmax(logits, -1).gather(1, torch.tensor(completion)[:, None])[:, 0])
    return torch.cat(found).detach()


# --- the golden values of an earlier system -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def early() -> dict[str, Any]:
    if not FILE.is_file():
        pytest.skip(f"no golden values at {FILE.parent}; set LIT_GOLDEN")
    return torch.load(FILE, weights_only=True)


def early_lm(early: dict[str, Any], **settings: Any) -> GPT2LMHeadModel:
    lm = GPT2LMHeadModel(GPT2Config(**early["config"])).eval()
    lm.load_state_dict(early["state_dict"])
    lm.generation_config.pad_token_id = early["pad_id"]
    settings = {"width": WIDTH, **settings}
    lm.injector = Injector(lm, InjectionSettings(marker=MARKER, **settings), early["mark_id"])
    return lm


def early_injections(vectors: torch.Tensor) -> torch.Tensor:
    """One vector at each marker: the second row has two markers, the third row none."""
    stacked = stack_injections([vectors[0], vectors[[1, 1]], None])
    assert stacked is not None
    return stacked


@golden
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("replace_l0", {}),
        ("add_l0", {"mode": "add"}),
        ("project_l0", {"mode": "project", "width": 8}),
        ("replace_after_block1", {"layers": [1]}),
        ("add_after_block2", {"mode": "add", "layers": [2]}),
        ("norm_add_after_block2", {"mode": "norm_add", "layers": [2]}),
    ],
)
@torch.no_grad()
def test_logits_are_those_expected(early: dict[str, Any], name: str, settings: dict[str, Any]) -> None:
    lm, ids = early_lm(early, **settings), early["inputs"]["ids"]
    if settings.get("mode") == "project":
        lm.injector.projection.load_state_dict(early["proj_state"])
    given = early_injections(early["inputs"]["acts8" if settings.get("width") else "acts"])
    with injecting(lm, ids, given):
        logits = lm(ids).logits
    torch.testing.assert_close(logits, early["expected_ours"][name], atol=1e-5, rtol=0)
    then = early["seed_forward"].get(name)
    if then is not None:  # where the earlier system did what it said
        torch.testing.assert_close(logits, then["logits"], atol=1e-5, rtol=0)
    torch.testing.assert_close(lm(ids).logits, early["seed_forward"]["plain"]["logits"], atol=1e-5, rtol=0)


@golden
@torch.no_grad()
def test_a_projection_and_later_layers_are_not_ignored(early: dict[str, Any]) -> None:
    ids, plain = early["inputs"]["ids"], early["seed_forward"]["plain"]["logits"]
    found = {}
    for layers in ([0], [1], [0, 2], [1, 2]):
        lm = early_lm(early, layers=layers)
        with injecting(lm, ids, early_injections(early["inputs"]["acts"])):
            found[str(layers)] = lm(ids).logits
    different = [*found.values(), plain]
    for number, one in enumerate(different):
        assert all((one - other)[:2].abs().max() > 0.05 for other in different[:number])
        torch.testing.assert_close(one[2], plain[2], atol=1e-5, rtol=0)  # a row without vectors is as it was


@golden
@pytest.mark.parametrize("mode", ["replace", "add"])
@pytest.mark.parametrize("use_cache", [True, False])
def test_generate_is_that_expected_with_and_without_cache(early: dict[str, Any], mode: str, use_cache: bool) -> None:
    lm, ids = early_lm(early, mode=mode), early["inputs"]["ids"]
    with injecting(lm, ids, early_injections(early["inputs"]["acts"])):
        written = lm.generate(ids, max_new_tokens=6, do_sample=False, use_cache=use_cache, eos_token_id=None)
    assert written.tolist() == early["generate"][f"expected_{mode}_generate"].tolist()
    assert written.tolist() != early["generate"]["seed_generate"].tolist()


# --- scoring and sampling -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("shared", [True, False])
def test_scores_are_those_of_a_plain_forward_pass(architecture: str, shared: bool) -> None:
    lm = with_injector(architecture)
    completions = [[11, 12, 13], [21], [11, 12, 13], [31, 32], [41]]
    rows = [row for row in range(5) for _ in range(3 if shared else 1)]
    given = [[values[row] for row in rows] for values in (PROMPTS, completions, INJECTIONS)]
    with torch.no_grad():
        scores = score_completions(lm, completion_batch(*given)).logprobs
    torch.testing.assert_close(scores, reference_logprobs(lm, *given), atol=1e-5, rtol=0)
    first = scores[:3]
    third = scores[12:15] if shared else scores[4:7]
    assert (first - third).abs().max() > 0.01  # equal ids, other vectors


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("group", [1, 3])
def test_samples_are_those_of_the_vectors(architecture: str, group: int) -> None:
    lm = with_injector(architecture)
    asked = [
        Request(Prompt("", injection=injection), ids, [*range(group)])
        for ids, injection in zip(PROMPTS, INJECTIONS, strict=True)
    ]
    rollouts = LoopSampler().sample(lm, tokenizer(), asked, SamplingParams(12))
    prompts, completions = [r.prompt_ids.tolist() for r in rollouts], [r.completion_ids.tolist() for r in rollouts]
    expected = reference_logprobs(lm, prompts, completions, [INJECTIONS[r.group] for r in rollouts])
    torch.testing.assert_close(torch.cat([r.logprobs for r in rollouts]), expected, atol=2e-5, rtol=1e-5)
    assert completions[:group] != completions[2 * group : 3 * group]  # equal ids, equal seeds, other vectors
    alone = [row for one in asked for row in LoopSampler().sample(lm, tokenizer(), [one], SamplingParams(12))]
    assert [row.completion_ids.tolist() for row in alone] == completions  # whatever else is in the batch
    batch = completion_batch([r.prompt_ids for r in rollouts], completions, [r.injection for r in rollouts])
    with torch.no_grad():
        torch.testing.assert_close(score_completions(lm, batch).logprobs, expected, atol=2e-5, rtol=1e-5)


def test_a_small_llama_with_vectors_samples_by_the_fastest_way() -> None:
    lm, plain = with_injector(), language_model("llama")
    assert _fastest_way(lm) == _fastest_way(plain)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in lm.modules())


def test_a_marker_in_a_completion_is_a_token_like_any_other() -> None:
    lm = with_injector()
    given: Any = [[[5, TOKEN, 6]] * 2, [[TOKEN, 7, TOKEN], [8]], [V[0]] * 2]
    for batch in (completion_batch(*given), completion_batch(*(part[:1] for part in given))):
        with torch.no_grad():
            scores = score_completions(lm, batch).logprobs
        expected = reference_logprobs(lm, *given)
        torch.testing.assert_close(scores, expected[: len(scores)], atol=1e-5, rtol=0)


# --- generate -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_generate_reads_padded_prompts_and_several_copies(architecture: str, side: str) -> None:
    lm, width = with_injector(architecture, layers=[0, 1]), max(map(len, PROMPTS))
    same = PROMPTS if side == "left" else [ids for ids in PROMPTS if len(ids) == 4]
    given = INJECTIONS if side == "left" else [INJECTIONS[0], INJECTIONS[2]]
    pads = [[0] * (width - len(ids)) for ids in same]
    ids = torch.tensor([pad + row if side == "left" else row for pad, row in zip(pads, same, strict=True)])
    mask = torch.tensor(
        [[0] * len(pad) + [1] * len(row) if side == "left" else [1] * 4 for pad, row in zip(pads, same, strict=True)]
    )
    injections = stack_injections(given)
    options: dict[str, Any] = {"max_new_tokens": 5, "eos_token_id": None, "pad_token_id": 0, "attention_mask": mask}
    with injecting(lm, ids, injections, mask.bool()):
        greedy = lm.generate(ids, do_sample=False, **options)
        again = lm.generate(ids, do_sample=False, use_cache=False, **options)
        torch.manual_seed(0)
        copies = lm.generate(ids, do_sample=True, top_k=1, num_return_sequences=2, **options)
    for row, (prompt, injection) in enumerate(zip(same, given, strict=True)):
        alone = stack_injections([injection])
        written = list(prompt)
        for _ in range(5):
            with injecting(lm, torch.tensor([prompt]), alone):
                written.append(int(lm(torch.tensor([written])).logits[0, -1].argmax()))
        expected = written[len(prompt) :]
        assert greedy[row, ids.shape[1] :].tolist() == again[row, ids.shape[1] :].tolist() == expected
        assert copies[2 * row : 2 * row + 2, ids.shape[1] :].tolist() == [expected] * 2


@torch.no_grad()
def test_a_prompt_may_be_read_in_parts_and_padded_on_the_right() -> None:
    lm = with_injector()
    ids = torch.tensor([[*PROMPTS[3], 0, TOKEN], [*PROMPTS[0], 0, 0, TOKEN, 0]])  # markers in the padding do not count
    prompts = torch.tensor([[True] * 6 + [False] * 2, [True] * 4 + [False] * 4])
    with injecting(lm, ids, stack_injections([V[3:5], V[0]]), prompts):
        whole = lm(ids).logits
        past = lm(ids[:, :3], use_cache=True)
        parts = torch.cat([past.logits, lm(ids[:, 3:], past_key_values=past.past_key_values).logits], 1)
    torch.testing.assert_close(whole, parts, atol=1e-5, rtol=0)
    expected = lm(inputs_embeds=embeds(lm, ids[1].tolist(), V[0], [2])).logits
    torch.testing.assert_close(whole[1:], expected, atol=1e-5, rtol=0)


# --- modes, layers, scales ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_a_vector_that_is_an_embedding_reads_as_its_token(architecture: str) -> None:
    """With the scaling of architectures whose first block gets scaled embeddings."""
    lm = with_injector(architecture)
    there = lm.get_input_embeddings()(torch.tensor([[40]]))
    with injecting(lm, torch.tensor([[5, TOKEN, 6]]), there):
        found = lm(torch.tensor([[5, TOKEN, 6]])).logits
    torch.testing.assert_close(found, lm(torch.tensor([[5, 40, 6]])).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("scale", "norm"), [("raw", None), ("sqrt_d", 4.0), (2.5, 2.5), ("mean_norm", 3.0), ("embed_norm", -1.0)]
)
@pytest.mark.parametrize("architecture", ["llama", "gemma3_text"])
def test_a_vector_gets_the_norm_that_the_rule_says(architecture: str, scale: Any, norm: float | None) -> None:
    lm = language_model(architecture)
    activations = torch.tensor([[2.0] + [0.0] * 15, [0.0] * 15 + [4.0]])
    injector = add_injector(lm, tokenizer(), InjectionSettings(scale=scale, marker=MARKER), activations)
    if norm == -1:
        table = lm.get_input_embeddings()
        norm = table(torch.arange(len(table.weight))).norm(dim=-1).mean().item()
    given = torch.tensor(V)
    found = injector(given)
    torch.testing.assert_close(found.norm(dim=-1), given.norm(dim=-1) if norm is None else torch.full((5,), norm))
    torch.testing.assert_close(nn.functional.normalize(found), nn.functional.normalize(given))
    assert scale == "raw" or isinstance(injector.settings.scale, float)  # a number to keep beside the weights
    assert injector(torch.zeros(1, WIDTH)).tolist() == [[0.0] * WIDTH]
    again = add_injector(language_model(architecture), tokenizer(), injector.settings)
    assert again.settings == injector.settings


def test_a_projection_is_part_of_the_model_and_learns() -> None:
    lm = with_injector(mode="project", width=8, layers=[0, 2])
    projection = lm.injector.projection
    assert isinstance(projection, nn.Linear)
    names = {"injector.projection.weight", "injector.projection.bias"}
    assert names <= {*lm.state_dict()} & {*dict(lm.named_parameters())}
    assert deepcopy(lm).double().injector.projection.weight.dtype == torch.float64
    batch = completion_batch([[5, TOKEN, 6]], [[7, 8]], [vectors(1, 8)[0]])
    optimizer = torch.optim.AdamW(lm.parameters(), lr=0.01)
    before, losses = projection.weight.detach().clone(), []
    for _ in range(5):
        loss = -score_completions(lm, batch).logprobs.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert not torch.equal(before, projection.weight)
    square = with_injector(mode="project").injector
    torch.testing.assert_close(square(torch.tensor(V)), torch.tensor(V))  # at first it replaces
    same = with_injector(mode="project", width=8).injector.projection.weight
    assert torch.equal(before, same)


@pytest.mark.parametrize("mode", ["replace", "add", "norm_add"])
def test_gradients_are_those_of_the_formula(mode: Any) -> None:
    torch.manual_seed(0)
    states, given = torch.randn(2, 3, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    sites = torch.tensor([0, 1, 1]), torch.tensor([2, 0, 2])
    inputs = states.requires_grad_(), given.requires_grad_()
    assert torch.autograd.gradcheck(lambda h, v: _Write.apply(h, v, *sites, mode), inputs)
    with torch.autograd.graph.saved_tensors_hooks(pytest.fail, pytest.fail):
        _Write.apply(*inputs, *sites, mode)


@pytest.mark.parametrize("mode", ["replace", "add", "norm_add", "project"])
@pytest.mark.parametrize("lora", [True, False])
def test_gradients_are_the_same_with_gradient_checkpointing(mode: str, lora: bool) -> None:
    batch = completion_batch(PROMPTS, [[11, 12, 13], [21], [11, 12, 13], [31, 32], [41]], INJECTIONS)
    found = []
    for checkpointing in (False, True):
        lm: Any = language_model("llama")
        torch.manual_seed(0)
        if lora:
            lm = add_lora(lm, Lora(r=2))
            nn.init.normal_(next(p for name, p in lm.named_parameters() if "lora_B" in name))
        add_injector(lm, tokenizer(), InjectionSettings(mode=mode, layers=[0, 1, 2], marker=MARKER))
        if checkpointing:
            base_lm(lm).gradient_checkpointing_enable()
            lm.train()
        first = score_completions(lm, batch).logprobs
        score_completions(lm, batch.select(torch.tensor([1]), 4))  # another forward pass before the backward pass
        first.mean().backward()
        found.append({name: p.grad for name, p in lm.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert any("injector" in name for name in found[0]) == (mode == "project")
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-6, rtol=1e-5)
    assert any(float(gradient.abs().max()) > 1e-4 for gradient in found[0].values())


# --- markers --------------------------------------------------------------------------------------------------------


def test_the_marker_is_the_first_rare_character_that_is_one_token() -> None:
    texts = ["a <㈎> b <㈏> c", *TEXTS]
    words = train_tokenizer(texts, TrainedTokenizer(500, kind="words"))
    lm = tiny_lm(vocabulary=len(words))
    injector = add_injector(lm, words, InjectionSettings())
    assert injector.settings.marker == "㈎"
    assert words.decode([injector.marker_id]).strip() == "㈎"
    assert len(lm.get_input_embeddings().weight) == len(words)
    assert marker_id(words, "㈐") is None  # it would be the token for unknown words
    assert marker_id(words, "salt tide") is None


def test_a_token_that_the_vocabulary_keeps_free_comes_before_a_new_one() -> None:
    words = train_tokenizer(TEXTS, TrainedTokenizer(280))
    assert choose_marker(words) == "<|activation|>"
    words.add_tokens(["<unused0>"], special_tokens=True)
    assert choose_marker(words) == "<unused0>"


@pytest.mark.parametrize("tied", [True, False])
def test_a_marker_is_added_with_a_row_of_the_embedding_where_there_is_none(tied: bool) -> None:
    fresh = train_tokenizer(TEXTS, TrainedTokenizer(280))
    lm, size = tiny_lm(vocabulary=len(fresh), tie_embeddings=tied), len(fresh)
    ids = torch.tensor([[5, 6, 7]])
    before = lm(ids).logits
    injector = add_injector(lm, fresh, InjectionSettings())
    assert (injector.settings.marker, injector.marker_id, len(fresh)) == ("<|activation|>", size, size + 1)
    assert len(lm.get_input_embeddings().weight) == lm.config.vocab_size == size + 1
    torch.testing.assert_close(lm(ids).logits[..., :size], before)
    prompt = fresh.encode("salt <|activation|> tide")
    assert prompt.count(size) == 1
    with injecting(lm, torch.tensor([prompt]), stack_injections([V[0]])):
        lm(torch.tensor([prompt]))
    again = add_injector(lm, fresh, InjectionSettings(marker="<|activation|>"))
    assert (again.marker_id, len(fresh), len(lm.get_input_embeddings().weight)) == (size, size + 1, size + 1)


# --- rows and bad input ---------------------------------------------------------------------------------------------


def test_examples_bring_their_vectors() -> None:
    reader = ExampleReader(tokenizer())
    rows = [Example("salt ~", " tide", injection=V[0]), Example("salt ~", " tide", injection=V[1])]
    batch = reader.batch(rows)
    assert batch.injections is not None
    assert torch.equal(batch.injections[:, 0], torch.tensor(V[:2]))
    scores = score_completions(with_injector(), batch).logprobs.chunk(2)
    assert (scores[0] - scores[1]).abs().max() > 0.01
    assert reader.batch([Example("salt ~", " tide")]).injections is None


def test_a_rollout_takes_its_vectors_along() -> None:
    rollout = LoopSampler().sample(
        with_injector(), tokenizer(), [Request(Prompt("", injection=V[0]), [TOKEN], [0])], SamplingParams(1)
    )[0]
    moved: Rollout = rollout.to(torch.device("cpu"))
    assert moved.injection is not None
    assert torch.equal(moved.injection, torch.tensor(V[0]))


def scored(lm: PreTrainedModel, prompt: list[int], injection: Any) -> None:
    score_completions(lm, completion_batch([[2, 3], prompt], [[4], [4]], [None, injection]))


@pytest.mark.parametrize(
    ("prompt", "injection", "said"),
    [
        ([5, 6], V[0], "row 1: 1 vectors to inject, and the marker '~' stands 0 times"),
        ([TOKEN, TOKEN], V[0], "row 1: 1 vectors to inject, and the marker '~' stands 2 times"),
        ([5, TOKEN], V[:2], "row 1: 2 vectors to inject, and the marker '~' stands 1 times"),
        ([5, TOKEN], vectors(1, 12)[0], "12 wide, and the model takes 16; take activations of that width"),
        ([5, TOKEN], np.full(WIDTH, np.nan), "row 1: a vector to inject holds NaN or infinity"),
        ([5, TOKEN], np.full(WIDTH, np.inf), "row 1: a vector to inject holds NaN or infinity"),
        ([5, TOKEN], np.zeros((1, 1, WIDTH)), r"are \(width,\) or \(vectors, width\), not \(1, 1, 16\)"),
        ([5, TOKEN], 1.0, r"not \(\)"),
    ],
)
def test_vectors_that_do_not_fit_are_refused(prompt: list[int], injection: Any, said: str) -> None:
    lm = with_injector()
    with pytest.raises(UserError, match=said):
        scored(lm, prompt, injection)
    with pytest.raises(UserError, match=said.replace("row 1", "row 0")):
        asked = [Request(Prompt("", injection=np.asarray(injection)), prompt, [0])]
        LoopSampler().sample(lm, tokenizer(), asked, SamplingParams(1))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in lm.modules())


def test_vectors_without_a_place_to_go_are_refused() -> None:
    with pytest.raises(UserError, match="the model takes none: let it do so by `add_injector`"):
        scored(language_model("llama"), [5, TOKEN], V[0])
    with pytest.raises(UserError, match="differ in width"):
        stack_injections([V[0], vectors(1, 3)[0]])
    lm, ids = with_injector(), torch.tensor([[5, TOKEN], [6, TOKEN]])
    given = torch.tensor(V[:2])
    for wrong in (given, given[0], given[:1, None], given[None]):  # no row may go without in silence
        with (
            pytest.raises(UserError, match=r"2 rows need vectors of the shape \(2, vectors, width\)"),
            injecting(lm, ids, wrong),
        ):
            pass
    broken = given[:, None].clone()
    broken[1, 0, 3] = torch.nan
    with pytest.raises(UserError, match="holds NaN"), injecting(lm, ids, broken):
        pass
    for others in (ids.flip(1), ids[[0, 1, 0]]):
        with pytest.raises(UserError, match="for other prompts"), injecting(lm, ids, given[:, None]):
            lm(others)
    with pytest.raises(UserError, match="never read"), injecting(lm, ids, given[:, None]):
        pass


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"mode": "replase"}, "did you mean 'replace'"),
        ({"scale": "sqrt"}, "no 'sqrt'.*or a number"),
        ({"scale": 0}, "must be above 0"),
        ({"scale": float("nan")}, "must be above 0"),
        ({"mode": "norm_add", "scale": 2.0}, "means nothing with mode=norm_add"),
        ({"layers": []}, "at least one layer"),
        ({"layers": [1, 1]}, "each once"),
        ({"layers": [0, 3]}, r"names 3, and the model has the layers 0 \(embedding\) to 2"),
        ({"layers": [-1]}, "names -1"),
        ({"width": 8}, "only mode=project takes vectors of another width"),
        ({"scale": "mean_norm"}, "measured on activations"),
        ({"marker": " "}, "marker is empty"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        add_injector(language_model("llama"), tokenizer(), InjectionSettings(**{"marker": MARKER, **settings}))
