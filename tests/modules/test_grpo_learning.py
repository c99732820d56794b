"""What GRPO learns from a reward, and what it refuses before it begins."""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any, get_args

import pytest

from lit_narrative.datamodules.storyworld import StoryworldData
from lit_narrative.errors import UserError
from lit_narrative.lm.load import Lora
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.modules.grpo import GRPOModule
from lit_narrative.rl.loss_settings import LossSettings, LossType
from lit_narrative.rl.rewards.runner import ScoringSettings
from lit_narrative.views import Rollout
from tests.helpers import Recorder, TinyTask, fit, grpo, others_slow, weights
from tests.rewards import LowTokens


def policy(folder: Path, **settings: Any) -> GRPOModule:
    """Eight completions a prompt, thirty-two a rollout batch, one step each."""
    given: dict[str, Any] = {"sampling": SamplingParams(8), "lr": 2e-2}
    return grpo(folder, **{**given, **settings})


def rewards(folder: Path, data: TinyTask | None = None, batches: int = 30, **settings: Any) -> list[float]:
    """Mean reward of every rollout batch."""
    seen = Recorder()
    fit(policy(folder, **settings), data or TinyTask(rows=4), folder, seen, max_epochs=batches)
    return [metrics["reward"] for metrics in seen.metrics]


def gain(found: list[float]) -> float:
    """The last five rollout batches against the first five."""
    return mean(found[-5:]) - mean(found[:5])


@pytest.mark.parametrize("loss_type", others_slow(get_args(LossType), {"dr_grpo"}))
def test_it_learns_what_is_rewarded(loss_type: LossType, tmp_path: Path) -> None:
    assert gain(rewards(tmp_path, loss=LossSettings(loss_type))) > 0.2


@pytest.mark.parametrize(
    "settings",
    [
        {"advantage": "gae"},
        pytest.param({"num_iterations": 2, "scale_rewards": "batch"}, marks=pytest.mark.slow),
        pytest.param({"scale_rewards": "none"}, marks=pytest.mark.slow),
        pytest.param({"advantage": "rloo"}, marks=pytest.mark.slow),
        pytest.param({"loss": LossSettings("grpo", "sequence")}, marks=pytest.mark.slow),
        pytest.param({"loss": LossSettings("grpo", "sentence")}, marks=pytest.mark.slow),
        pytest.param({"loss": LossSettings(kl_in_reward=True, kl_estimator="k1")}, marks=pytest.mark.slow),
        pytest.param({"scoring": ScoringSettings(independent=("low",))}, marks=pytest.mark.slow),
    ],
)
def test_it_learns_with_other_settings(settings: dict[str, Any], tmp_path: Path) -> None:
    assert gain(rewards(tmp_path, **settings)) > 0.2


@pytest.mark.slow
def test_adapters_learn_too(tmp_path: Path) -> None:
    assert gain(rewards(tmp_path, lora=Lora(r=4, target_modules=["lm_head", "q_proj", "v_proj"]), lr=5e-2)) > 0.1


def test_shuffled_rewards_teach_nothing(tmp_path: Path) -> None:
    assert abs(gain(rewards(tmp_path, shuffle_rewards=True))) < 0.15


@pytest.mark.slow
def test_the_divergence_penalty_holds_the_policy_back(tmp_path: Path) -> None:
    assert gain(rewards(tmp_path, loss=LossSettings(beta=5.0))) < 0.5 * gain(
        rewards(tmp_path, loss=LossSettings(beta=0.0))
    )


class HighTokens(LowTokens):
    name = "high"

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float | None]:
        return [1 - float(share or 0) for share in super().__call__(rollouts)]


class Nothing:
    """A reward that cannot score anything."""

    name = "nothing"

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float | None]:
        return [None] * len(rollouts)


class Sparse(LowTokens):
    """A reward that scores every other completion."""

    name = "sparse"

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float | None]:
        return [None if place % 2 else share for place, share in enumerate(super().__call__(rollouts))]


class TooFew(LowTokens):
    name = "few"

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float | None]:
        return super().__call__(rollouts)[1:]


def task(*offered: Any) -> TinyTask:
    return TinyTask(rows=4, rewards=offered)


def test_weights_say_what_counts(tmp_path: Path) -> None:
    seen = Recorder()
    module = policy(tmp_path, rewards={"low": 1.0, "high": 3.0})
    fit(module, task(LowTokens(), HighTokens()), tmp_path, seen, max_epochs=30)
    first, last = seen.metrics[0], seen.metrics[-1]
    assert first["reward"] == pytest.approx(first["rewards/low/mean"] + 3 * first["rewards/high/mean"], abs=1e-5)
    assert last["rewards/high/mean"] > first["rewards/high/mean"] + 0.2


def test_rewards_that_cannot_score_some_are_left_out(tmp_path: Path) -> None:
    seen = Recorder()
    module = policy(tmp_path, rewards={"sparse": 1.0}, loss=LossSettings(beta=0.0))
    fit(module, task(Sparse()), tmp_path, seen, max_epochs=30)
    assert gain([metrics["reward"] for metrics in seen.metrics]) > 0.1
    assert module.scored is not None
    assert module.scored.totals.isnan().tolist() == [False, True] * 16
    assert (module.scored.advantages[1::2] == 0).all()


def test_rewards_that_score_nothing_change_nothing(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"rewards": {"nothing": 1.0}, "loss": LossSettings(beta=0.0), "weight_decay": 0.0}
    module, seen = policy(tmp_path, **settings), Recorder()
    fit(module, task(Nothing()), tmp_path, seen, max_epochs=2)
    still = policy(tmp_path, **settings, lr=0.0)
    fit(still, task(Nothing()), tmp_path, max_epochs=1)
    for name, value in weights(module.lm).items():
        assert value.equal(weights(still.lm)[name])
    assert seen.losses == [0, 0]
    assert "rewards/nothing/mean" not in seen.metrics[0]
    assert math.isnan(seen.metrics[0]["reward"])


def test_metrics_have_the_names_of_trl(tmp_path: Path) -> None:
    seen = Recorder()
    fit(policy(tmp_path), TinyTask(), tmp_path, seen, max_steps=1)
    expected = """loss reward reward_std frac_reward_zero_std rewards/low/mean rewards/low/std kl entropy
    clip_ratio/low_mean clip_ratio/high_mean clip_ratio/region_mean completions/mean_length completions/min_length
    completions/max_length completions/clipped_ratio"""
    assert set(seen.metrics[0]) >= set(expected.split())
    batch, metrics = seen.batches[0], seen.metrics[0]
    lengths = batch.mask.sum(1).float()
    assert metrics["completions/mean_length"] == pytest.approx(float(lengths.mean()))
    assert (metrics["completions/min_length"], metrics["completions/max_length"]) == (lengths.min(), lengths.max())
    assert metrics["entropy"] == pytest.approx(-float(batch.old[batch.mask].mean()), abs=0.3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_generations": 1}, r"num_generations=1: a group needs at least 2"),
        ({"rewards": {}}, r"model\.rewards is empty"),
        ({"sampling": SamplingParams(8, top_k=5)}, r"top_k and top_p must be off in RL"),
        ({"sampling": SamplingParams(8, top_p=0.9)}, r"top_k and top_p must be off in RL"),
        ({"micro_batch_size": 0}, r"micro_batch_size is 0; it must be 1"),
        ({"num_iterations": 0}, r"num_iterations is 0; it must be 1"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        policy(tmp_path, **settings)


def test_an_accumulation_that_does_not_fit_the_window_is_refused(tmp_path: Path) -> None:
    message = r"accumulate_grad_batches=3 does not divide the 4 micro-batches of a rollout batch \(4 prompts x num"
    with pytest.raises(UserError, match=message):
        fit(policy(tmp_path, micro_batch_size=8), TinyTask(), tmp_path, max_steps=1, accumulate_grad_batches=3)


def test_a_window_larger_than_the_prompts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"fewer training prompts than the 4 of a rollout batch"):
        fit(policy(tmp_path), TinyTask(rows=3), tmp_path, max_steps=1)


def test_a_reward_must_score_every_completion(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="reward 'few' returned 31 scores for 32 completions"):
        fit(policy(tmp_path, rewards={"few": 1.0}), task(TooFew()), tmp_path, max_steps=1)


def test_an_unknown_reward_fails_before_the_model_is_built(tmp_path: Path) -> None:
    module = policy(tmp_path, rewards={"secret": 1.0})
    with pytest.raises(UserError, match=r"there is no 'secret'; did you mean 'secrets'\?"):
        fit(module, StoryworldData(train_size=8), tmp_path, max_steps=1)
    assert not module.ready


def test_a_task_without_prompts_is_refused(tmp_path: Path) -> None:
    class Readings(TinyTask):
        prompts = None  # type: ignore[assignment]

    with pytest.raises(UserError, match=r"Readings offers no 'prompts' view; it has: examples"):
        fit(policy(tmp_path), Readings(), tmp_path, max_steps=1)
