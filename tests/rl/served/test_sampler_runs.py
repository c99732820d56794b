"""Runs whose rollouts a real server draws: the same as those that sample here, and ended where the two differ."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_narrative.errors import UserError
from lit_narrative.lm.load import Lora, load_lm
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.lm.turns import TurnSettings
from lit_narrative.modules.grpo import GRPOModule
from lit_narrative.rl.loss_settings import LossSettings
from lit_narrative.rl.served.settings import ServedSettings
from tests.helpers import Recorder, TinyTask, fit, grpo, tiny_lm, tokenizer, trainer, weights
from tests.rl.served.conftest import Serve
from tests.rl.served.server import InferenceServer

TURNS = TurnSettings("critic", observation_tokens=16)
DRIFT = "sampling/sampling_logp_difference/mean"


def policy(base: Path, folder: Path, server: InferenceServer | None = None, **settings: Any) -> GRPOModule:
    given: dict[str, Any] = {
        "model": str(base),
        "num_generations": 2,
        "micro_batch_size": 8,
        "sampling": SamplingParams(8, temperature=0.9),
        "lr": 1e-2,
        "loss": LossSettings(beta=0.0),
    }
    if server is not None:
        given["served"] = ServedSettings(server.engine, server.url, retries=3)  # type: ignore[arg-type]
    return grpo(folder, **{**given, **settings})


@pytest.mark.parametrize(
    "settings",
    [
        {},
        pytest.param({"lora": Lora(r=2)}, marks=pytest.mark.slow),
        pytest.param(
            {"turns": TurnSettings("critic", observation_tokens=16), "num_iterations": 2}, marks=pytest.mark.slow
        ),
    ],
    ids=["weights", "adapters", "turns"],
)
def test_a_served_run_is_a_local_run(settings: dict[str, Any], base: Path, serve: Serve, tmp_path: Path) -> None:
    """By the same seeds the same ids, log-probabilities, rewards, and in the end the same weights."""
    server, local, served = serve("vllm"), Recorder(), Recorder()
    fit(here := policy(base, tmp_path, **settings), TinyTask(), tmp_path, local, max_epochs=2)
    fit(there := policy(base, tmp_path, server, **settings), TinyTask(), tmp_path, served, max_epochs=2)
    assert len(local.batches) == len(served.batches) == 4 * settings.get("num_iterations", 1)
    for one, other in zip(local.batches, served.batches, strict=True):
        assert torch.equal(one.batch.ids, other.batch.ids)
        torch.testing.assert_close(other.sampler, one.old, atol=1e-5, rtol=0)
        torch.testing.assert_close(other.is_ratio, torch.ones_like(other.is_ratio), atol=1e-5, rtol=0)
        torch.testing.assert_close(other.advantages, one.advantages, atol=1e-4, rtol=0)
    assert all(metrics[DRIFT] < 1e-5 for metrics in served.metrics)
    assert [m["reward"] for m in served.metrics] == pytest.approx([m["reward"] for m in local.metrics])
    expected = weights(here)
    for name, value in weights(there).items():
        torch.testing.assert_close(value, expected[name], atol=2e-4, rtol=1e-3)
    start = weights(load_lm(str(base)))
    moved = [
        float((expected[f"lm.{name}"] - value).abs().max()) for name, value in start.items() if "lora" not in settings
    ]
    moved += [float(value.abs().max()) for name, value in expected.items() if "lora_B" in name]  # they begin at 0
    assert max(moved) > 5e-3
    assert "/v1/completions" in server.paths() and not list((tmp_path / "served").iterdir())


@pytest.mark.slow
def test_sglang_samples_from_the_policy_too(base: Path, serve: Serve, tmp_path: Path) -> None:
    server, seen = serve("sglang"), Recorder()
    fit(policy(base, tmp_path, server), TinyTask(), tmp_path, seen, max_epochs=2)
    assert len(seen.metrics) == 4 and all(metrics[DRIFT] < 1e-5 for metrics in seen.metrics)
    assert server.paths().count("/update_weights_from_disk") == 4  # that before the first step, and after three more


@pytest.mark.slow
def test_older_weights_are_corrected_for(base: Path, serve: Serve, tmp_path: Path) -> None:
    server, seen = serve("vllm"), Recorder()
    settings = ServedSettings("vllm", server.url, sync_steps=2, max_drift=5.0)
    fit(policy(base, tmp_path, served=settings), TinyTask(), tmp_path, seen, max_epochs=2)
    assert server.paths().count("/resume") == 2
    fresh, stale = seen.batches[0::2], seen.batches[1::2]
    assert all((batch.is_ratio - 1).abs().max() < 1e-5 for batch in fresh)
    for batch in stale:
        expected = ((batch.old - batch.sampler).exp().clamp(max=3.0) * batch.mask)[batch.mask]
        torch.testing.assert_close(batch.is_ratio[batch.mask], expected)
        assert (batch.is_ratio - 1).abs().max() > 1e-3


def test_a_run_ends_where_server_and_trainer_stay_apart(base: Path, serve: Serve, tmp_path: Path) -> None:
    server, seen = serve("vllm"), Noisy()
    seen.server = server
    settings = ServedSettings("vllm", server.url, max_drift_batches=2)
    with pytest.raises(UserError, match=r"in 2 rollout batches in a row .* by 0\.5 nats a token"):
        fit(policy(base, tmp_path, served=settings), TinyTask(), tmp_path, seen, max_epochs=3)
    assert len(seen.metrics) == 2  # one before the noise, and one with it


class Noisy(Recorder):
    """Lets a server differ from the first step on."""

    server: InferenceServer

    def on_train_batch_end(self, *args: Any) -> None:  # type: ignore[override]
        super().on_train_batch_end(*args)
        self.server.noise = 0.5


def test_a_server_of_another_base_is_refused_before_anything_is_learned(
    base: Path, serve: Serve, tmp_path: Path
) -> None:
    tiny_lm(scale=4.0, seed=7).save_pretrained(tmp_path / "other")
    tokenizer().save_pretrained(tmp_path / "other")
    module, seen = policy(base, tmp_path, serve("vllm", tmp_path / "other"), lora=Lora(r=2)), Recorder()
    with pytest.raises(UserError, match=r"gives its tokens other log-probabilities .* another base model"):
        fit(module, TinyTask(), tmp_path, seen, max_epochs=1)
    assert not seen.batches


def test_log_probabilities_without_the_temperature_are_refused(base: Path, serve: Serve, tmp_path: Path) -> None:
    module = policy(base, tmp_path, serve("vllm", raw=True), sampling=SamplingParams(8, temperature=0.3))
    with pytest.raises(UserError, match="--logprobs-mode processed_logprobs"):
        fit(module, TinyTask(), tmp_path, max_epochs=1)


@pytest.mark.slow
def test_a_run_that_was_killed_resumes_with_the_server(base: Path, serve: Serve, tmp_path: Path) -> None:
    server = serve("vllm")
    fit(whole := policy(base, tmp_path, server), TinyTask(), tmp_path, max_epochs=2)
    keep = ModelCheckpoint(tmp_path / "checkpoints", save_top_k=-1, every_n_train_steps=1)
    options = {"max_epochs": 2, "enable_checkpointing": True}
    fit(policy(base, tmp_path, server), TinyTask(), tmp_path, keep, max_steps=2, **options)
    server.restart()
    (last,) = (tmp_path / "checkpoints").glob("*step=2.ckpt")
    module = policy(base, tmp_path, server)
    trainer(tmp_path, **options).fit(module, TinyTask(), ckpt_path=last)
    expected = weights(whole)
    for name, value in weights(module).items():
        torch.testing.assert_close(value, expected[name], atol=1e-5, rtol=0)


def test_settings_that_do_not_go_together(base: Path, tmp_path: Path) -> None:
    served = ServedSettings("vllm", "http://localhost:8000")
    with pytest.raises(UserError, match=r"knows nothing of model\.sampling\.grammar"):
        policy(base, tmp_path, served=served, sampling=SamplingParams(8, grammar="storyworld"))
    with pytest.raises(UserError, match="importance_sampling_mode is null"):
        policy(base, tmp_path, served=served, loss=LossSettings(importance_sampling_mode=None))
