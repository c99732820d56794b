"""What the original code of PPLM gave on a tiny GPT-2: every case that the file of golden values holds, by ours and by
the loop that the benchmark compares with."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks.steering.published import Published, generate
from lit_narrative.steering.bags import BagOfWords, BagsOfRows
from lit_narrative.steering.heads import Target
from lit_narrative.steering.pplm.settings import PPLMSettings
from lit_narrative.steering.pplm.steerer import PPLM, PPLMDecoding
from lit_narrative.steering.sampler import Texts
from tests.paths import GOLDEN

pytestmark = pytest.mark.golden

FILE = GOLDEN / "pplm.pt"
GOLDEN: dict[str, Any] = torch.load(FILE, weights_only=True) if FILE.exists() else {}
CLASSES = ("0", "1", "2")
PARAMETERS = ("stepsize", "num_iterations", "window_length", "decay", "gamma", "kl_scale", "horizon_length", "gm_scale")


def cases(part: str) -> Any:
    """One pytest case for each entry that has this part, or one skipped case."""
    if not GOLDEN:
        return [pytest.param("", marks=pytest.mark.skip(f"no golden values at {FILE.parent}; set LIT_GOLDEN"))]
    return [name for name, case in GOLDEN["cases"].items() if part in case]


@pytest.fixture(scope="module")
def lm() -> GPT2LMHeadModel:
    model = GPT2LMHeadModel(GPT2Config(**GOLDEN["config"])).eval().requires_grad_(False)
    model.load_state_dict(GOLDEN["state_dict"])
    return model


def single_tokens(settings: dict[str, Any]) -> list[list[int]]:
    return [[word[0] for word in bag if len(word) == 1] for bag in settings["bows"] or []]


def begin(lm: GPT2LMHeadModel, settings: dict[str, Any], context: torch.Tensor) -> PPLMDecoding:
    parameters = {name: settings[name] for name in PARAMETERS}
    anchor = settings.get("window_anchor", "oldest")
    pplm = PPLMSettings(**parameters, window_anchor=anchor, temperature_on="steered")
    bags = [BagOfWords("bag", (), tuple(ids), (1.0,) * len(ids)) for ids in single_tokens(settings)]
    head = GOLDEN["head"]
    targets = (
        [] if settings["label"] is None else [Target(head["weight"], head["bias"], settings["label"], 1.0, CLASSES)]
    )
    steerer = PPLM(pplm, BagsOfRows(bags, [1.0] * len(bags)), targets)
    mask = torch.ones_like(context, dtype=torch.bool)
    return steerer.begin(lm, Texts(context, mask, torch.tensor([0]), [{}], 10, settings["temperature"]))


def top_k(fused: torch.Tensor, k: int) -> torch.Tensor:
    return fused if k == 0 else fused.where(fused >= fused.topk(k).values[..., -1:], 0.0)


@pytest.mark.parametrize("name", cases("single"))
@torch.no_grad()
def test_one_step_within(name: str, lm: GPT2LMHeadModel) -> None:
    settings, expected = GOLDEN["cases"][name]["settings"], GOLDEN["cases"][name]["single"]
    writing = begin(lm, settings, expected["context"])
    past = torch.stack(writing.plain.past.tensors).view_as(expected["past"])
    torch.testing.assert_close(past, expected["past"], atol=1e-5, rtol=0)
    before = writing.plain.sums.clone()
    scores = writing.scores(None)
    moved = torch.stack([tensor[:, :, :-1] for tensor in writing.moved.tensors]).view_as(expected["pert_past"])
    torch.testing.assert_close(moved, expected["pert_past"], atol=1e-5, rtol=0)
    assert writing.norms is not None
    torch.testing.assert_close(writing.norms[:, 0], expected["grad_norms"], rtol=1e-3, atol=1e-12)
    torch.testing.assert_close(torch.stack(writing.losses)[:, 0], expected["loss_per_iter"], atol=1e-4, rtol=0)
    torch.testing.assert_close(before, expected["accumulated_hidden"], atol=1e-4, rtol=0)
    fused = scores.steered.exp()
    torch.testing.assert_close(fused, expected["fused_raw"], atol=1e-6, rtol=1e-4)
    final = top_k(fused, settings["top_k"])
    torch.testing.assert_close(final / final.sum(), expected["final_probs"], atol=1e-4, rtol=0)
    assert scores.plain is not None
    if settings["temperature"] == 1:
        torch.testing.assert_close(scores.plain.exp(), expected["unpert_probs"], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", cases("trajectory"))
@torch.no_grad()
def test_ten_tokens(name: str, lm: GPT2LMHeadModel) -> None:
    settings, expected = GOLDEN["cases"][name]["settings"], GOLDEN["cases"][name]["trajectory"]
    steps = len(expected["fused_raw"])
    context, wanted = expected["tokens"][:, :-steps], expected["tokens"][0, -steps:]
    writing, token, losses = begin(lm, settings, context), None, []
    for step in range(steps):
        fused = writing.scores(token).steered.exp()
        torch.testing.assert_close(fused[0], expected["fused_raw"][step], atol=1e-5, rtol=0)
        torch.testing.assert_close(top_k(fused, settings["top_k"])[0], expected["fused_topk"][step], atol=1e-5, rtol=0)
        losses += [torch.stack(writing.losses)[:, 0]] if writing.losses else []
        token = fused.argmax(-1)
        assert token == wanted[step]
    torch.testing.assert_close(torch.stack(losses), torch.stack(expected["loss_in_time"]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", [name for name in cases("trajectory") if "_recent" not in name])
def test_the_benchmarks_loop_is_the_published_one(name: str, lm: GPT2LMHeadModel) -> None:
    settings, expected = GOLDEN["cases"][name]["settings"], GOLDEN["cases"][name]["trajectory"]
    head = nn.Linear(32, 3)
    head.load_state_dict(GOLDEN["head"])
    options = Published(
        **{name: settings[name] for name in (*PARAMETERS, "temperature", "top_k")},
        bags=single_tokens(settings),
        head=None if settings["label"] is None else head.requires_grad_(False),
        label=settings["label"] or 0,
    )
    steps = len(expected["fused_raw"])
    trace = generate(lm, expected["tokens"][0, :-steps].tolist(), steps, options)
    assert torch.equal(trace.tokens, expected["tokens"])
    torch.testing.assert_close(torch.stack(trace.fused), expected["fused_raw"], atol=1e-5, rtol=0)


@pytest.mark.skipif(not GOLDEN, reason="no golden values")
@torch.no_grad()
def test_the_plain_model_is_the_one_of_the_file(lm: GPT2LMHeadModel) -> None:
    context = GOLDEN["contexts"]["a"]
    settings = {**GOLDEN["cases"]["bow/a"]["settings"], "num_iterations": 0}
    writing, tokens = begin(lm, settings, torch.tensor([context])), [*context]
    token = None
    for _ in range(10):
        token = writing.scores(token).steered.argmax(-1)
        tokens.append(int(token))
    expected = GOLDEN["unperturbed_greedy_a"]
    assert tokens == [int(token) for token in torch.as_tensor(expected).flatten()][-len(tokens) :]
