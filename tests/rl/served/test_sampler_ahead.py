"""Rollouts that are drawn while the batch before is learned from: by the weights of before that, and corrected for."""

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_narrative.errors import UserError
from lit_narrative.interrupts import Interrupted, listening
from lit_narrative.lm.load import Lora, load_lm
from lit_narrative.lm.logprobs import to_rows
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.lm.turns import TurnSettings
from lit_narrative.modules.grpo import GRPOModule
from lit_narrative.rl.loss_settings import LossSettings
from lit_narrative.rl.sampling import CollectStep, rollout_seed
from lit_narrative.rl.served.client import THREAD
from lit_narrative.rl.served.sampler import ServedSampler
from lit_narrative.rl.served.settings import ServedSettings
from lit_narrative.seeds import stream_seed
from tests.helpers import PROMPTS, Recorder, TinyTask, fit, grpo, requests, tokenizer, trainer, weights
from tests.rl.served.conftest import Serve
from tests.rl.served.server import FAULTS, InferenceServer

DRAWN = ("/v1/completions", "/generate")
PARAMS = SamplingParams(6, temperature=0.9)
ROWS, BATCHES, GROUP, COMPLETIONS, PROBES = 8, 4, 2, 4, 4
"""Of the task; rollout batches an epoch; completions of a prompt, of a rollout batch, and before the run begins."""


def settings(server: InferenceServer, **given: Any) -> ServedSettings:
    return ServedSettings(server.engine, server.url, **{"ahead": True, "max_drift": 5.0, "retries": 3, **given})  # type: ignore[arg-type]


def policy(base: Path, folder: Path, served: ServedSettings, **given: Any) -> GRPOModule:
    small: dict[str, Any] = {"num_generations": GROUP, "sampling": PARAMS, "lr": 1e-2, "loss": LossSettings(beta=0.0)}
    return grpo(folder, **{"model": str(base), "served": served, **small, **given})


def task() -> TinyTask:
    return TinyTask(rows=ROWS, batch_size=ROWS // BATCHES)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(THREAD)]


@pytest.fixture(autouse=True)
def nothing_runs_on() -> Iterator[None]:
    """Whatever a run comes to, no request of it is under way afterwards."""
    yield
    assert not threads()


class Watch(Recorder):
    """Keeps the policy's weights before each optimizer step, and the numbers of the prompts that it learns from."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[dict[str, torch.Tensor]] = []
        self.prompts: list[list[int]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        self.weights.append(weights(pl_module))
        rollouts = pl_module.scored.rollouts if pl_module.scored else []  # None in a batch that a checkpoint holds
        self.prompts.append([int(rollout.columns["index"]) for rollout in rollouts[::GROUP]])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert not threads()  # neither validation nor what callbacks do between epochs meets a request


def drawn(server: InferenceServer) -> list[list[tuple[int, int]]]:
    """By rollout batch, the seed of each completion, and the optimizer steps of the weights that it was asked of."""
    found, version = list[tuple[int, int]](), ""
    for path, body, _ in server.asked:
        version = body.get("new_version", version)
        if path in DRAWN:
            sampling = body.get("sampling_params", body)
            name = body.get("model") or body.get("lora_path") or version
            found.append((sampling.get("seed", sampling.get("sampling_seed")), int(name.rpartition("-")[2])))
    found = found[PROBES:]
    return [sorted(found[start : start + COMPLETIONS]) for start in range(0, len(found), COMPLETIONS)]


def seeds(epoch: int, number: int, prompts: Sequence[int]) -> list[int]:
    """Those that the local sampler has too."""
    seed = rollout_seed(CollectStep(epoch, number, 0))
    return sorted(stream_seed(seed, prompt, n) for prompt in prompts for n in range(GROUP))


@pytest.mark.parametrize(("engine", "lora"), [("vllm", None), pytest.param("vllm", Lora(r=2), marks=pytest.mark.slow)])
def test_each_batch_is_drawn_by_the_policy_of_one_batch_before(
    engine: str, lora: Lora | None, base: Path, serve: Serve, tmp_path: Path
) -> None:
    server, seen = serve(engine), Watch()
    module = policy(base, tmp_path, settings(server), lora=lora)
    fit(module, task(), tmp_path, seen, max_epochs=2)
    batches, steps = drawn(server), [0, 0, 1, 2, 4, 4, 5, 6]
    assert len(seen.batches) == len(batches) == 2 * BATCHES
    for number, (batch, prompts) in enumerate(zip(batches, seen.prompts, strict=True)):
        assert [seed for seed, _ in batch] == seeds(*divmod(number, BATCHES), prompts)
    assert sorted(prompt for batch in seen.prompts[:BATCHES] for prompt in batch) == list(range(ROWS))
    assert [{step for _, step in batch} for batch in batches] == [{step} for step in steps]
    assert [metrics["sampling/staleness"] for metrics in seen.metrics] == [0, 1, 1, 1, 0, 1, 1, 1]
    for now, (learned, step) in enumerate(zip(seen.batches, steps, strict=True)):
        # Two policies: the one that drew it is in `sampler`, the one that learns from it in `old`.
        for logprobs, state in ((learned.sampler, seen.weights[step]), (learned.old, seen.weights[now])):
            module.load_state_dict(state, strict=False)
            with torch.no_grad():
                scores = to_rows(module.score(module.lm, learned.batch).logprobs, learned.mask)
            torch.testing.assert_close(logprobs, scores, atol=1e-5, rtol=0)
        expected = (learned.old - learned.sampler).exp().clamp(max=3.0) * learned.mask
        torch.testing.assert_close(learned.is_ratio * learned.mask, expected)
        assert bool(((learned.is_ratio - 1) * learned.mask).abs().max() > 1e-4) == (step != now)


@pytest.mark.slow
def test_an_epoch_that_the_trainer_ends_early_asks_for_nothing_in_vain(
    base: Path, serve: Serve, tmp_path: Path
) -> None:
    server, seen = serve(), Watch()
    fit(policy(base, tmp_path, settings(server)), task(), tmp_path, seen, max_epochs=2, limit_train_batches=2)
    assert [len(batch) for batch in drawn(server)] == [COMPLETIONS] * 4 and len(seen.batches) == 4


@pytest.mark.parametrize("adapters", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_faults_under_way_leave_no_trace(adapters: bool, base: Path, serve: Serve, tmp_path: Path) -> None:
    server, lm = serve(), grpo(tmp_path, model=str(base), lora=Lora(r=2) if adapters else None)
    lm.load_model()
    served = ServedSampler(settings(server, timeout=2.0, connections=2, retries=8), tmp_path / "served")
    served.update(lm.lm, lm.tokenizer, 0)
    asked = requests(PROMPTS[:2], group=2)
    expected = served.sample(lm.lm, lm.tokenizer, asked, PARAMS)
    for faults in (list(FAULTS), ["500", "restart"]):
        server.faults = faults
        served.start(lm.lm, lm.tokenizer, asked, PARAMS)
        served.wait()
        found = served.sample(lm.lm, lm.tokenizer, asked, PARAMS)
        assert [r.completion_ids.tolist() for r in found] == [r.completion_ids.tolist() for r in expected]
        assert not server.faults
    served.close()


class Faults(Recorder):
    """Lets things go wrong at the server as soon as a batch is learned from, with requests for the next under way."""

    def __init__(self, server: InferenceServer, fault: str) -> None:
        super().__init__()
        self.server, self.fault = server, fault

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # The first batch is drawn; of the next one the first requests are answered, and the others are not sent yet.
        self.server.faults = [""] * (COMPLETIONS + 1) + [self.fault] * 100

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        assert threads()


def test_a_server_that_fails_ends_the_run_in_its_own_thread(base: Path, serve: Serve, tmp_path: Path) -> None:
    module = policy(base, tmp_path, settings(server := serve(), connections=1, retries=2))
    with pytest.raises(UserError, match=r"status 500 .*out of memory.*\(attempts: 3\)"):
        fit(module, task(), tmp_path, seen := Faults(server, "500"), max_epochs=1)
    assert len(seen.losses) == 1


class Ends(Faults):
    """Ends the run with requests under way that are never answered."""

    def __init__(self, server: InferenceServer, end: str) -> None:
        super().__init__(server, "hang")
        self.end = end

    def on_train_batch_end(self, *args: Any) -> None:  # type: ignore[override]
        if self.end == "a step failed":
            raise RuntimeError(self.end)
        if self.end == "Ctrl-C":  # while the main thread waits
            threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()


@pytest.mark.parametrize(
    ("end", "error"),
    [
        pytest.param("a step failed", RuntimeError, marks=pytest.mark.slow),
        ("Ctrl-C", Interrupted),
        pytest.param("max_steps", None, marks=pytest.mark.slow),
    ],
)
def test_a_run_that_ends_waits_for_no_server(
    end: str, error: type[BaseException] | None, base: Path, serve: Serve, tmp_path: Path
) -> None:
    module, seen = policy(base, tmp_path, settings(server := serve())), Ends(server, end)
    with listening():
        if error is None:
            assert fit(module, task(), tmp_path, seen, max_steps=1).global_step == 1
        else:
            with pytest.raises(error):
                fit(module, task(), tmp_path, seen, max_epochs=1)
    assert len(seen.batches) == 1
    assert not list((tmp_path / "served").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_a_resumed_run_draws_again_what_was_under_way(
    micro_batches: int, base: Path, serve: Serve, tmp_path: Path
) -> None:
    """Behind the second batch, or in its middle."""
    server, keep = serve(), ModelCheckpoint(tmp_path / "checkpoints", save_top_k=-1, every_n_train_steps=1)
    size = {"micro_batch_size": COMPLETIONS // micro_batches}
    options = {"max_epochs": 1, "enable_checkpointing": True}
    fit(policy(base, tmp_path, settings(server), **size), task(), tmp_path, whole := Watch(), keep, **options)
    step = 2 if micro_batches == 1 else 3
    (last,) = (tmp_path / "checkpoints").glob(f"*step={step}.ckpt")
    server.restart()
    server.asked.clear()
    module = policy(base, tmp_path, settings(server), **size)
    trainer(tmp_path, resumed := Watch(), **options).fit(module, task(), ckpt_path=last)
    probes = [path for path, _, _ in server.asked].count(DRAWN[0]) - 2 * COMPLETIONS
    assert probes == PROBES and [len(batch) for batch in drawn(server)] == [COMPLETIONS] * 2
    assert len(resumed.batches) == BATCHES * micro_batches - step
    # Behind a batch the next is drawn by the weights of now; within one it is asked for before the rest is learned.
    expected = [0.0, 1.0] if micro_batches == 1 else [2.0, 1.0, 1.0, 2.0, 2.0]
    assert [metrics["sampling/staleness"] for metrics in resumed.metrics] == expected
    again = 2 * micro_batches
    assert resumed.prompts[-again:] == whole.prompts[-again:]


class Slow(Recorder):
    """Steps that take long."""

    seconds = 0.5

    def on_train_batch_end(self, *args: Any) -> None:  # type: ignore[override]
        super().on_train_batch_end(*args)
        time.sleep(self.seconds)


@pytest.mark.slow
def test_drawing_and_learning_take_the_time_of_the_longer_one(base: Path, serve: Serve, tmp_path: Path) -> None:
    server = serve()
    server.delay = Slow.seconds
    taken = []
    for ahead in (False, True):
        module = policy(base, tmp_path, settings(server, ahead=ahead))
        started = time.monotonic()
        fit(module, task(), tmp_path, Slow(), max_epochs=2)
        taken.append(time.monotonic() - started)
    # All but the first batch of an epoch come for nothing; half of that is left to a busy machine.
    assert taken[1] < taken[0] - (2 * BATCHES - 2) * Slow.seconds / 2


def test_weights_change_once_all_processes_have_their_completions(base: Path, serve: Serve, tmp_path: Path) -> None:
    server, lm = serve(), load_lm(str(base)).eval()
    other: list[str | None] = [None]
    together = []

    def gather(failure: str | None) -> list[str | None]:
        together.append(len(server.asked))
        return [failure, *other]

    served = ServedSampler(settings(server), tmp_path / "served", gather=gather)
    asked = requests(PROMPTS[:2], group=2)
    served.update(lm, tokenizer(), 0)
    served.start(lm, tokenizer(), asked, PARAMS)
    served.update(lm, tokenizer(), 1)
    loads = [number for number, (path, _, _) in enumerate(server.asked) if path == "/collective_rpc"]
    assert len(loads) == 2 and loads[0] < together[0] <= loads[1]
    assert len(served.sample(lm, tokenizer(), asked, PARAMS)) == 4 and served.drawn_step == 0
    other[0] = "model.served: the other process's server is gone"
    served.start(lm, tokenizer(), asked, PARAMS)
    with pytest.raises(UserError, match="the other process's server is gone"):
        served.update(lm, tokenizer(), 2)
    served.close()


@pytest.mark.parametrize(
    ("name", "value"),
    [("turns", TurnSettings("critic", observation_tokens=16)), ("dynamic_sampling", 1), ("curriculum", 0.5)],
)
def test_what_waits_for_the_rewards_of_the_batch_before_is_refused(
    name: str, value: Any, base: Path, tmp_path: Path
) -> None:
    served = ServedSettings("vllm", "http://localhost:8000", ahead=True)
    with pytest.raises(UserError, match=rf"model\.served\.ahead: .* model\.{name} waits for that"):
        policy(base, tmp_path, served, **{name: value})
