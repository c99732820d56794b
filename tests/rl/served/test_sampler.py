"""Completions by a real server, of weights that change, with every fault that a server can have."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lit_narrative.errors import UserError
from lit_narrative.lm.load import Lora, add_lora, load_lm
from lit_narrative.lm.logprobs import completion_batch, score_completions
from lit_narrative.lm.sampler import LoopSampler, Request, SamplingParams
from lit_narrative.rl.served.sampler import ServedSampler
from lit_narrative.rl.served.settings import DriftBudget, ServedSettings
from lit_narrative.views import Prompt, Rollout
from tests.helpers import PROMPTS, requests, tiny_lm, tokenizer
from tests.rl.served.conftest import Serve
from tests.rl.served.server import FAULTS, InferenceServer

PARAMS = SamplingParams(12, temperature=0.8)
KINDS: list[Any] = [("vllm", False), ("vllm", True), ("sglang", False), ("sglang", True)]


def policy(base: Path, adapters: bool) -> nn.Module:
    """The model of the folder; its adapters already say something."""
    lm: nn.Module = load_lm(str(base))
    if adapters:
        lm = add_lora(lm, Lora(r=2))
        move(lm)
    return lm.eval()


@torch.no_grad()
def move(lm: nn.Module) -> None:
    """As an optimizer step would."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in lm.named_parameters():
        if parameter.requires_grad and parameter.ndim > 1 and "embed" not in name:
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)


def sampler(server: InferenceServer, folder: Path, **settings: Any) -> ServedSampler:
    given = {"engine": server.engine, "url": server.url, "timeout": 10.0, "retries": 2}
    return ServedSampler(ServedSettings(**{**given, **settings}), folder / "served")


def sample(served: ServedSampler, lm: nn.Module, wanted: list[Request] | None = None) -> list[Rollout]:
    return served.sample(lm, tokenizer(), wanted or few(), PARAMS)


def few() -> list[Request]:
    return requests(PROMPTS[:2], group=2)


def drift(lm: nn.Module, rollouts: list[Rollout]) -> float:
    """Greatest difference of the log-probabilities to the trainer's."""
    batch = completion_batch([r.prompt_ids for r in rollouts], [r.completion_ids for r in rollouts])
    with torch.no_grad():
        found = score_completions(lm, batch, temperature=PARAMS.temperature).logprobs
    return float((found - torch.cat([r.logprobs for r in rollouts])).abs().max())


def same(found: list[Rollout], expected: list[Rollout]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one.text, one.finished, one.group) == (other.text, other.finished, other.group)
        assert torch.equal(one.completion_ids, other.completion_ids) and torch.equal(one.prompt_ids, other.prompt_ids)
        torch.testing.assert_close(one.logprobs, other.logprobs, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("engine", "adapters"), KINDS)
def test_completions_are_of_the_weights_of_the_last_update(
    engine: str, adapters: bool, base: Path, serve: Serve, tmp_path: Path
) -> None:
    server, lm = serve(engine), policy(base, adapters)
    served = sampler(server, tmp_path)
    served.update(lm, tokenizer(), 0)
    first = sample(served, lm)
    assert len(first) == 4 and drift(lm, first) <= 1e-5
    if engine == "vllm":  # by the same seeds the very completions that are drawn here
        same(first, LoopSampler().sample(lm, tokenizer(), few(), PARAMS))
    move(lm)
    assert drift(lm, sample(served, lm)) > 0.1  # not yet
    served.update(lm, tokenizer(), 1)
    assert drift(lm, sample(served, lm)) <= 1e-5
    (folder,) = (tmp_path / "served").iterdir()  # that of the weights before is gone
    assert folder.name.endswith("-1") and not server.paused
    assert len(server.adapters) == int(adapters)


def test_the_weights_go_to_the_server_every_so_many_steps(base: Path, serve: Serve, tmp_path: Path) -> None:
    server, lm = serve("sglang"), policy(base, False)
    served = sampler(server, tmp_path, sync_steps=3)
    for step in range(7):
        served.update(lm, tokenizer(), step)
    bodies = [body for path, body, _ in server.asked if path == "/update_weights_from_disk"]
    assert [body["weight_version"].split("-")[1] for body in bodies] == ["0", "3", "6"]


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_faults_that_pass_leave_no_trace(engine: str, base: Path, serve: Serve, tmp_path: Path) -> None:
    server, lm = serve(engine), policy(base, False)
    served = sampler(server, tmp_path, timeout=2.0, retries=10, connections=2)
    served.update(lm, tokenizer(), 0)
    expected = sample(served, lm)
    server.faults = [*FAULTS, "500", "500"]
    same(sample(served, lm), expected)
    assert not server.faults


@pytest.mark.parametrize(
    ("engine", "adapters"), KINDS[1:3] + [pytest.param(*KINDS[n], marks=pytest.mark.slow) for n in (0, 3)]
)
def test_a_server_that_started_anew_gets_the_weights_again(
    engine: str, adapters: bool, base: Path, serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server, lm = serve(engine), policy(base, adapters)
    move(lm)
    served = sampler(server, tmp_path)
    served.update(lm, tokenizer(), 0)
    expected = sample(served, lm)
    for faults in (["500", "restart"], []):
        server.faults = faults
        if not faults:
            server.restart()  # between two rollout batches
        with caplog.at_level(logging.WARNING):
            same(sample(served, lm), expected)
        assert "loading them again" in caplog.text
        caplog.clear()


def test_a_server_that_another_run_uses_ends_this_one(base: Path, serve: Serve, tmp_path: Path) -> None:
    server, lm = serve("sglang"), policy(base, False)
    served = sampler(server, tmp_path)
    served.update(lm, tokenizer(), 0)
    server.faults = ["overwritten"] * 100
    with pytest.raises(UserError, match=r"lost the weights .* 3 times in one rollout batch, and has of another run"):
        sample(served, lm)


Change = Callable[[InferenceServer], None]


def lacks(name: str) -> Change:
    return lambda server: server.missing.add(name)


@pytest.mark.parametrize(
    ("engine", "adapters", "change", "message"),
    [
        ("vllm", False, lacks("token_ids"), r"no token_ids, which vLLM has from 0\.10\.2 on; update the server"),
        ("vllm", False, lacks("/update_weight_version"), "no such endpoint .*docs/served.md"),
        ("vllm", False, lacks("/weight_info"), "update vLLM and start it with VLLM_SERVER_DEV_MODE=1"),
        ("vllm", True, lacks("/v1/load_lora_adapter"), "no such endpoint .*docs/served.md"),
        ("sglang", False, lacks("weight_version"), "no weight_version; update the server"),
        ("sglang", False, lacks("/update_weights_from_disk"), "no such endpoint"),
        ("sglang", False, lambda server: server.faults.extend(["500"] * 40), r"status 500 .*out of memory.*\(attempts"),
        ("sglang", True, lambda server: server.faults.extend(["hang"] * 40), r"no answer within .*timeout=0\.3 s"),
        ("vllm", False, lambda server: setattr(server, "positions", 30), "at most 30 tokens, and a prompt with its"),
        ("vllm", False, lambda server: setattr(server, "engine", "sglang"), "engine=vllm, but .* is sglang; give that"),
    ],
)
def test_a_server_that_is_of_no_use_is_named(
    engine: str, adapters: bool, change: Change, message: str, base: Path, serve: Serve, tmp_path: Path
) -> None:
    server, lm = serve(engine), policy(base, adapters)
    served = sampler(server, tmp_path, timeout=0.3 if "timeout" in message else 10.0)
    change(server)
    with pytest.raises(UserError, match=message):
        served.update(lm, tokenizer(), 0)
        sample(served, lm)


@pytest.mark.parametrize("adapters", [False, True])
def test_a_server_of_a_model_of_other_sizes_is_refused(
    adapters: bool, base: Path, serve: Serve, tmp_path: Path
) -> None:
    tiny_lm(hidden_size=32).save_pretrained(tmp_path / "other")
    served = sampler(serve("vllm", tmp_path / "other"), tmp_path)
    with pytest.raises(UserError, match=r"did not take the weights: status 400 .*size mismatch"):
        served.update(policy(base, adapters), tokenizer(), 0)


def test_a_server_with_more_tokens_or_other_ends_is_refused(base: Path, serve: Serve, tmp_path: Path) -> None:
    server, lm = serve("vllm"), policy(base, True)
    served = sampler(server, tmp_path)
    served.update(lm, tokenizer(), 0)
    answer = server.vllm_complete

    def changed(ids: list[int]) -> Callable[[dict[str, Any]], dict[str, Any]]:
        def change(body: dict[str, Any]) -> dict[str, Any]:
            found = answer(body)
            found["choices"][0] |= {"token_ids": ids, "logprobs": {"token_logprobs": [-1.0] * len(ids)}}
            return found

        return change

    end = tokenizer().eos_token_id
    for ids, message in (
        ([5, 9000], "writes a token 9000, and the policy has 300"),
        ([5, end, 6], "go on behind their end"),
        ([5] * 13, "go on behind their end"),
        ([5, 6], "ends with token 6, which ends none of the policy's"),
        ([], "0 token ids with 0 log-probabilities"),
        ([True], "or not such"),
    ):
        server.vllm_complete = changed(ids)  # type: ignore[method-assign]
        with pytest.raises(UserError, match=message):
            sample(served, lm)


def test_a_server_that_is_not_there_or_is_something_else(base: Path, serve: Serve, tmp_path: Path) -> None:
    server, lm = serve("vllm"), policy(base, False)
    server.missing.add("/v1/models")
    with pytest.raises(UserError, match=r"\(attempts: 1\); see that the server runs"):
        sampler(server, tmp_path, url="http://127.0.0.1:9", retries=0).update(lm, tokenizer(), 0)
    with pytest.raises(UserError, match="no list of models, but status 404"):
        sampler(server, tmp_path, url=f"{server.url}/somewhere").update(lm, tokenizer(), 0)
    assert not (tmp_path / "served").exists()  # nothing was written for it


def test_vectors_and_grammars_are_not_for_servers(base: Path, serve: Serve, tmp_path: Path) -> None:
    lm = policy(base, True)
    served = sampler(serve("vllm"), tmp_path)
    served.update(lm, tokenizer(), 0)
    vector = Request(Prompt("A", injection=torch.zeros(1, 16).numpy()), [5], [0])
    with pytest.raises(UserError, match="neither vectors to inject nor"):
        sample(served, lm, [vector])


def test_the_key_is_sent_and_never_shown(
    base: Path, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINE_KEY", "sk-secret-secret-secret")
    server = serve("vllm")
    served = sampler(server, tmp_path, key_env="ENGINE_KEY")
    served.update(policy(base, True), tokenizer(), 0)
    assert all(headers["Authorization"] == "Bearer sk-secret-secret-secret" for _, _, headers in server.asked)
    assert "secret" not in repr(served.settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"engine": "tgi"}, r"model\.served\.engine: there is no 'tgi'"),
        ({"url": "localhost:8000"}, r"model\.served\.url='localhost:8000' must begin with http"),
        ({"url": "http://me:key@host"}, "has user info"),
        ({"sync_steps": 0}, r"model\.served\.sync_steps is 0"),
        ({"timeout": 0.0}, r"model\.served\.timeout=0\.0 must be a number above 0"),
        ({"max_drift": float("nan")}, r"model\.served\.max_drift=nan"),
        ({"key_env": "NOT_SET_ANYWHERE"}, "NOT_SET_ANYWHERE is not set to a key"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ServedSettings(**{"engine": "vllm", "url": "http://localhost:8000", **settings})


def test_the_budget_counts_batches_in_a_row() -> None:
    budget = DriftBudget(ServedSettings("vllm", "http://localhost:8000", max_drift=0.1, max_drift_batches=2))
    for value in (0.2, 0.1, 0.2, 0.0, float("nan")):
        budget.update(value)
    with pytest.raises(UserError, match=r"in 2 rollout batches in a row .* by 0\.2 nats .*max_drift=0\.1"):
        budget.update(0.2)
