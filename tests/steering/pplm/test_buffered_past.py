"""The past in buffers: the library's cache is what it is held to, traced or not."""

import logging

import pytest
import torch
from transformers import LlamaConfig, PreTrainedModel

from lit_narrative.lm.load import build_lm
from lit_narrative.steering.past import Past, Positions, Reading
from lit_narrative.steering.pplm import flat
from lit_narrative.steering.pplm.buffered_past import BufferedPast, can_buffer, hooked
from lit_narrative.steering.pplm.flat import EagerPass, FlatPass, make_pass
from tests.helpers import tiny_lm
from tests.steering.pplm.test_steerer import MODELS, SIZES

IDS = torch.tensor([[0, 0, 5, 9, 14, 3], [7, 2, 31, 8, 4, 11]])
MASK = torch.tensor([[False, False, True, True, True, True], [True] * 6])
NEXT = torch.tensor([[3], [12]])


def third_token(reading: Reading) -> tuple[torch.Tensor, torch.Tensor]:
    logprobs = torch.log_softmax(reading.logits, -1)
    grad = logprobs.exp()
    grad[:, 3] -= 1
    return -logprobs[:, 3], grad


def both(lm: PreTrainedModel) -> tuple[Past, BufferedPast]:
    past, _ = Past.of(lm.requires_grad_(False), IDS, MASK)
    return past, BufferedPast.of(past, MASK, 4)


def positions() -> Positions:
    return Positions(MASK, True).next()


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("model", ["gpt2", "llama, grouped heads"])
@torch.no_grad()
def test_steps_and_readings_are_those_of_the_cache(
    model: str, weighted: bool, traced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flat, "TRACE_AFTER", 1 if traced else 10**9)
    weights = torch.rand(MASK.shape, generator=torch.Generator().manual_seed(0)) if weighted else None
    known: list[list[torch.Tensor]] = []
    for past in both(MODELS[model]()):
        at, seen = positions(), []
        for _ in range(2):
            squares: list[torch.Tensor] = []

            def move(found: torch.Tensor, squares: list[torch.Tensor] = squares) -> torch.Tensor:
                squares.append(found)
                return 0.3 / found.sqrt()

            losses = [past.gradient_step(NEXT, at, third_token, move, weights) for _ in range(2)]
            reading = past.read(NEXT, at)
            seen += [*losses, *squares, *reading, *(tensor.clone() for tensor in past.tensors)]
            at, weights = at.next(), None if weights is None else torch.nn.functional.pad(weights, (0, 1), value=0.5)
        weights = None if weights is None else weights[:, : MASK.shape[1]]
        known.append(seen)
    for expected, found in zip(*known, strict=True):
        # what stands in padded columns is never seen
        assert found.shape == expected.shape
        if found.ndim == 4:
            found, expected = (tensor[:, :, 2:] for tensor in (found, expected))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_shape_is_traced_once_it_has_come_up_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flat, "TRACE_AFTER", 3)
    _, past = both(tiny_lm("llama"))
    inputs = past._inputs(NEXT, positions(), None)
    kinds = [type(make_pass(past.base, inputs, 300)) for _ in range(4)]
    assert kinds == [EagerPass, EagerPass, FlatPass, FlatPass]


@torch.no_grad()
def test_a_model_that_cannot_be_traced_is_read_the_eager_way(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    lm = build_lm(LlamaConfig(**SIZES, rope_parameters=rope)).eval()
    assert can_buffer(lm.requires_grad_(False))
    monkeypatch.setattr(flat, "TRACE_AFTER", 1)
    known = []
    with caplog.at_level(logging.INFO, logger=flat.__name__):
        for past in both(lm):
            past.gradient_step(NEXT, positions(), third_token, torch.rsqrt, None)
            known.append(past.read(NEXT, positions()).logits)
    torch.testing.assert_close(known[1], known[0], atol=1e-5, rtol=1e-4)
    assert [m.split(":")[0] for m in caplog.messages if "traced" in m] == [
        f"{type(lm).__name__} cannot be traced and is read the slower way"
    ]


@torch.no_grad()
def test_a_traced_pass_follows_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flat, "TRACE_AFTER", 1)
    lm = tiny_lm("gpt2")
    _, past = both(lm)
    before = past.copy().read(NEXT, positions()).logits
    for parameter in lm.parameters():
        parameter.mul_(1.5)
    found = past.copy().read(NEXT, positions()).logits
    monkeypatch.setattr(flat, "TRACE_AFTER", 10**9)
    torch.testing.assert_close(found, past.copy().read(NEXT, positions()).logits, atol=1e-5, rtol=1e-4)
    assert (found - before).abs().max() > 1e-3


@torch.no_grad()
def test_a_copy_and_a_fork_are_their_own() -> None:
    _, past = both(tiny_lm("llama"))
    before = [tensor.clone() for tensor in past.tensors]
    for other in (past.copy(), past.fork()):
        other.gradient_step(NEXT, positions(), third_token, torch.rsqrt, None)
        other.read(NEXT, positions())
    for kept, tensor in zip(before, past.tensors, strict=True):
        assert torch.equal(kept, tensor)


def test_who_may_be_buffered() -> None:
    lm = build_lm(LlamaConfig(**SIZES)).eval().requires_grad_(False)
    assert can_buffer(lm)
    assert not can_buffer(MODELS["mistral, sliding"]().requires_grad_(False))
    with torch.autocast("cpu", torch.bfloat16):
        assert not can_buffer(lm)


def test_a_strangers_hook_is_seen() -> None:
    lm = tiny_lm("llama")
    assert not hooked(lm)
    handle = lm.model.layers[0].register_forward_hook(lambda *args: None)
    assert hooked(lm)
    handle.remove()
    lm(torch.tensor([[1]]), output_hidden_states=True)  # the library leaves hooks of its own
    assert not hooked(lm)
