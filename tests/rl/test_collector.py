"""What a rollout batch holds: replaced groups, values, masks, corrections; and how it is split."""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch

from lit_narrative.errors import UserError
from lit_narrative.lm.logprobs import TokenScores, score_completions, to_rows
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.modules.grpo import GRPOModule
from lit_narrative.rl.collector import RolloutCollector
from lit_narrative.rl.gae import ValueSettings, gae
from lit_narrative.rl.loss_settings import LossSettings
from lit_narrative.rl.rewards.runner import RewardRunner
from lit_narrative.rl.sampling import CollectStep
from lit_narrative.rl.settings import BatchPlan, GRPOSettings
from lit_narrative.views import Prompt, Rollout
from tests.helpers import Recorder, TinyTask, fit, grpo, tokenizer
from tests.rewards import LowTokens


def policy(folder: Path, **settings: Any) -> GRPOModule:
    """Four prompts, four completions each: one rollout batch an epoch of `TinyTask(rows=4)`."""
    given: dict[str, Any] = {"num_generations": 4, "sampling": SamplingParams(10), "lr": 2e-2}
    return grpo(folder, **{**given, **settings})


def run(folder: Path, data: TinyTask | None = None, epochs: int = 1, **settings: Any) -> tuple[GRPOModule, Recorder]:
    module, seen = policy(folder, **settings), Recorder()
    fit(module, data or TinyTask(rows=4), folder, seen, max_epochs=epochs)
    return module, seen


class Flat(LowTokens):
    """Worth the same for every completion of the first and third prompt of `PROMPTS`."""

    name = "flat"

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float | None]:
        scores = super().__call__(rollouts)
        return [0.5 if r.prompt in ("Write.", "A") else s for r, s in zip(rollouts, scores, strict=True)]


def test_groups_that_teach_nothing_are_drawn_again_from_other_prompts(tmp_path: Path) -> None:
    task = TinyTask(rows=16, rewards=[Flat()])
    settings: dict[str, Any] = {"rewards": {"flat": 1.0}, "lr": 0.0}
    _, plain = run(tmp_path, task, **settings)
    module, drawn = run(tmp_path, task, **settings, dynamic_sampling=8)
    assert sum(metrics["frac_reward_zero_std"] for metrics in plain.metrics) > 0
    assert all(metrics["frac_reward_zero_std"] == 0 for metrics in drawn.metrics)
    assert all(metrics["dynamic_sampling/left"] == 0 for metrics in drawn.metrics)
    assert sum(metrics["dynamic_sampling/replaced"] for metrics in drawn.metrics) >= 8
    assert module.scored is not None
    assert [rollout.group for rollout in module.scored.rollouts] == [place // 4 for place in range(16)]
    for place in range(0, 16, 4):
        assert len({rollout.prompt for rollout in module.scored.rollouts[place : place + 4]}) == 1
        assert len({rollout.text for rollout in module.scored.rollouts[place : place + 4]}) > 1
    assert module.scored.advantages.abs().min() > 0 or module.scored.advantages.view(4, 4).std(1).min() > 0


def test_drawing_again_is_bounded_and_the_rest_is_counted(tmp_path: Path) -> None:
    class Same(LowTokens):
        def __call__(self, rollouts: Sequence[Rollout]) -> list[float | None]:
            time.sleep(0.02)
            return [1.0] * len(rollouts)

    _, seen = run(tmp_path, TinyTask(rows=4, rewards=[Same()]), dynamic_sampling=3)
    # Scored once, and again in each of the three rounds.
    assert 4 * 0.02 <= seen.metrics[0]["rewards_time"] < seen.metrics[0]["step_time"]
    assert seen.metrics[0]["dynamic_sampling/replaced"] == 3 * 4
    assert seen.metrics[0]["dynamic_sampling/left"] == 4
    assert seen.metrics[0]["frac_reward_zero_std"] == 1


def test_one_reward_alone_may_be_dealt_to_other_completions(tmp_path: Path) -> None:
    class Other(LowTokens):
        name = "other"

    task = TinyTask(rows=4, rewards=[LowTokens(), Other()])
    weights = {"low": 1.0, "other": 1.0}
    module, _ = run(tmp_path, task, rewards=weights, lr=0.0, shuffle_rewards=["other"])
    assert module.scored is not None
    true = torch.tensor(LowTokens()(module.scored.rollouts))
    dealt = module.scored.rewards
    assert torch.equal(dealt["low"], true)
    assert not torch.equal(dealt["other"], true)
    assert torch.equal(dealt["other"].sort().values, true.sort().values)
    torch.testing.assert_close(module.scored.totals, true + dealt["other"])
    again, _ = run(tmp_path, task, rewards=weights, lr=0.0, shuffle_rewards=["other"])
    assert again.scored is not None
    assert torch.equal(again.scored.rewards["other"], dealt["other"])
    with pytest.raises(UserError, match=r"model.shuffle_rewards.*did you mean 'other'"):
        policy(tmp_path, rewards=weights, shuffle_rewards=["othr"])


def test_ppo_learns_returns_and_weighs_tokens_by_what_came_of_them(tmp_path: Path) -> None:
    value = ValueSettings(gamma=0.9, lam=0.8, value_loss_weight=1.0)
    settings: dict[str, Any] = {"advantage": "gae", "value": value, "num_generations": 1, "scale_rewards": "none"}
    module, seen = run(tmp_path, epochs=40, lr=5e-3, **settings)
    batch = seen.batches[-1]
    assert batch.values.abs().max() > 0.05
    totals = LowTokens()(module.scored.rollouts)  # type: ignore[union-attr]
    order = {tuple(r.completion_ids.tolist()): total for r, total in zip(module.scored.rollouts, totals, strict=True)}  # type: ignore[union-attr]
    rewards = torch.zeros_like(batch.old)
    for row, (ids, mask) in enumerate(zip(batch.completion_ids, batch.mask, strict=True)):
        rewards[row, int(mask.sum()) - 1] = order[tuple(ids[mask].tolist())]
    advantages, returns = gae(rewards, batch.values, batch.mask, gamma=0.9, lam=0.8)
    torch.testing.assert_close(batch.advantages, advantages, atol=1e-5, rtol=0)
    torch.testing.assert_close(batch.returns, returns, atol=1e-5, rtol=0)


class ByPrompt(LowTokens):
    """Worth 1 if the prompt begins with an A."""

    name = "by_prompt"

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float | None]:
        return [float(rollout.prompt.startswith("A")) for rollout in rollouts]


@pytest.mark.slow
def test_the_value_head_learns_what_a_prompt_is_worth(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"advantage": "gae", "rewards": {"by_prompt": 1.0}, "lr": 1e-2}
    value = ValueSettings(value_loss_weight=1.0, value_clip=None)
    _, seen = run(tmp_path, TinyTask(rows=4, rewards=[ByPrompt()]), epochs=40, value=value, **settings)
    errors = [metrics["value_loss"] for metrics in seen.metrics]
    assert mean(errors[-5:]) < 0.3 * mean(errors[:5])


def test_values_begin_at_the_mean_reward(tmp_path: Path) -> None:
    module, seen = run(tmp_path, advantage="gae", epochs=2)
    batch = seen.batches[0]
    totals = LowTokens()(rollouts_of(batch))
    expected = sum(float(total or 0) for total in totals) / 16
    torch.testing.assert_close(batch.values[batch.mask], torch.full((int(batch.mask.sum()),), expected))
    assert seen.batches[1].values[seen.batches[1].mask].std() > 0  # and then they learn
    assert module.value_head is not None


def rollouts_of(batch: Any) -> list[Rollout]:
    """The completions of a batch, as a reward reads them."""
    ids = [row[mask] for row, mask in zip(batch.completion_ids, batch.mask, strict=True)]
    return [Rollout(row[:0], row, row.float(), True, "") for row in ids]


def test_advantages_of_tokens_are_standardised_over_the_rollout_batch(tmp_path: Path) -> None:
    _, seen = run(tmp_path, advantage="gae")
    chosen = seen.batches[0].advantages[seen.batches[0].mask]
    assert float(chosen.mean()) == pytest.approx(0, abs=1e-5)
    assert float(chosen.std(correction=0)) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("advantage", ["group", "gae"])
def test_the_divergence_can_cost_reward_in_place_of_loss(advantage: str, tmp_path: Path) -> None:
    loss = LossSettings(beta=0.5, kl_in_reward=True, kl_estimator="k1")
    settings: dict[str, Any] = {"advantage": advantage, "scale_rewards": "none", "lr": 5e-2}
    settings |= {"value": ValueSettings(lam=0.8)} if advantage == "gae" else {}
    _, seen = run(tmp_path, epochs=3, loss=loss, **settings)
    batch = seen.batches[-1]
    cost = 0.5 * (batch.old - batch.reference) * batch.mask
    assert cost.abs().max() > 1e-2
    if advantage == "gae":
        from lit_narrative.rl.gae import gae as estimate

        plain = estimate(torch.zeros_like(cost), batch.values, batch.mask, gamma=1.0, lam=0.8)[0]
        priced = estimate(-cost, batch.values, batch.mask, gamma=1.0, lam=0.8)[0]
        scored = batch.advantages - (priced - plain)
        rewarded = estimate(torch.zeros_like(cost), batch.values, batch.mask, gamma=1.0, lam=0.8)[0]
        # what is left is the reward at the last token, spread backwards by lambda alone
        spread = (scored - rewarded)[batch.mask]
        assert (spread >= -1e-4).all() and (spread <= 1 + 1e-4).all()
        return
    # each group's advantages lose the mean of their own cost
    rows: dict[tuple[int, ...], list[int]] = {}
    for place in range(16):
        prompt = tuple(batch.batch.ids[place][: int(batch.batch.targets[place].int().argmax())].tolist())
        rows.setdefault(prompt, []).append(place)
    share = (batch.completion_ids < 150).float().mul(batch.mask).sum(1) / batch.mask.sum(1)
    worth = share - cost.sum(1)
    for places in rows.values():
        expected = worth[places] - worth[places].mean()
        torch.testing.assert_close(batch.advantages[places], expected, atol=1e-4, rtol=0)


def test_the_top_share_of_tokens_by_entropy_is_kept(tmp_path: Path) -> None:
    module, seen = run(tmp_path, loss=LossSettings(top_entropy_quantile=0.2), lr=0.0, micro_batch_size=4)
    kept = sum(int(batch.keep.sum()) for batch in seen.batches)
    tokens = sum(int(batch.mask.sum()) for batch in seen.batches)
    assert kept == pytest.approx(0.2 * tokens, abs=2)
    entropies = [
        to_rows(score_completions(module.lm, batch.batch, entropy=True).entropy, batch.mask) for batch in seen.batches
    ]
    least = min(float(e[b.keep].min()) for e, b in zip(entropies, seen.batches, strict=True))
    most = max(float(e[b.mask & ~b.keep].max()) for e, b in zip(entropies, seen.batches, strict=True))
    assert least >= most - 1e-5
    assert {batch.totals.entropy_tokens for batch in seen.batches} == {
        int(batch.keep.sum()) for batch in seen.batches
    } or len(seen.batches) > 1


def test_a_sampler_that_is_not_the_policy_is_corrected_for(tmp_path: Path) -> None:
    """Its log-probabilities are off by a known amount: old ones are scored again, and the ratio tells the amount."""

    class Off(GRPOModule):
        def generate(self, *args: Any, **kwargs: Any) -> list[Rollout]:
            rollouts = super().generate(*args, **kwargs)
            for rollout in rollouts:
                rollout.logprobs.sub_(0.1)
            return rollouts

    given = policy(tmp_path).hparams
    loss = LossSettings(importance_sampling_mode="token_truncate", importance_sampling_clip_max=3.0)
    module, seen = Off(**{**given, "loss": loss}), Recorder()
    fit(module, TinyTask(rows=4), tmp_path, seen, max_steps=1)
    batch, metrics = seen.batches[0], seen.metrics[0]
    torch.testing.assert_close(
        batch.is_ratio[batch.mask].log(), torch.full((int(batch.mask.sum()),), 0.1), atol=1e-4, rtol=0
    )
    assert metrics["sampling/sampling_logp_difference/mean"] == pytest.approx(0.1, abs=1e-4)
    assert metrics["clip_ratio/region_mean"] == 0
    plain, seen = Off(**given), Recorder()
    fit(plain, TinyTask(rows=4), tmp_path, seen, max_steps=1)
    assert seen.metrics[0]["sampling/sampling_logp_difference/mean"] == pytest.approx(0.1, abs=1e-4)


@pytest.mark.parametrize(
    ("precision", "dtype"), [("32-true", "float32"), ("bf16-mixed", "float32"), ("32-true", "bfloat16")]
)
def test_rounding_below_float32_is_corrected_for(precision: str, dtype: str, tmp_path: Path) -> None:
    """The sampler rounds otherwise than the trainer; old log-probabilities are the trainer's, so no ratio moves."""
    module, seen = policy(tmp_path, lr=0.0, loss=LossSettings(epsilon=1e-6), dtype=dtype), Recorder()
    fit(module, TinyTask(rows=4), tmp_path, seen, max_steps=1, precision=precision)
    batch, metrics = seen.batches[0], seen.metrics[0]
    if precision == "32-true" and dtype == "float32":
        assert batch.is_ratio is None
        return
    ratio = (batch.old - batch.sampler).exp().where(batch.mask, 1.0)
    torch.testing.assert_close(batch.is_ratio, ratio)
    assert metrics["clip_ratio/region_mean"] == 0
    if metrics["sampling/sampling_logp_difference/max"] < 1e-6:
        pytest.skip("this processor multiplies bfloat16 by itself, and rounds the sampler's sums as the trainer's")
    assert metrics["sampling/sampling_logp_difference/max"] > 1e-5
    assert ((ratio.log() * batch.advantages.sign()[:, None]) > 1e-6).any()  # uncorrected, these would be clipped


def test_the_samplers_own_drift_is_logged_and_next_to_nothing(tmp_path: Path) -> None:
    _, seen = run(tmp_path)
    assert 0 <= seen.metrics[0]["sampling/sampling_logp_difference/mean"] < 1e-5
    assert 0 < seen.metrics[0]["sampling/sampling_logp_difference/max"] < 1e-4


def test_completions_that_were_cut_off_can_be_left_out(tmp_path: Path) -> None:
    module, seen = run(tmp_path, loss=LossSettings(mask_truncated_completions=True), micro_batch_size=16)
    batch = seen.batches[0]
    finished = torch.tensor([rollout.finished for rollout in module.scored.rollouts])  # type: ignore[union-attr]
    assert int(batch.row_mask.sum()) == int(finished.sum())
    assert batch.totals.rows == 16
    assert batch.totals.tokens == int(batch.loss_mask.sum())


def test_tokens_read_and_written_are_counted(tmp_path: Path) -> None:
    module, seen = run(tmp_path, epochs=2)
    tokens = [int((batch.batch.targets.any(1)).sum()) for batch in seen.batches]
    assert tokens
    written = [sum(len(r.prompt_ids) + len(r.completion_ids) for r in module.scored.rollouts)]  # type: ignore[union-attr]
    assert seen.metrics[-1]["num_tokens"] - seen.metrics[0]["num_tokens"] == written[0]


def test_a_rollout_batch_can_be_given_by_its_completions_and_its_micro_batches(tmp_path: Path) -> None:
    """The names of TRL: 32 completions in 4 micro-batches, whatever the task's batch size."""
    settings = {"generation_batch_size": 32, "steps_per_generation": 4}
    _, seen = run(tmp_path, TinyTask(rows=8, batch_size=1), **settings)
    assert [len(batch.mask) for batch in seen.batches] == [8] * 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"generation_batch_size": 30}, r"generation_batch_size=30 is not a whole number of groups .* multiple of 4"),
        ({"steps_per_generation": 5}, r"steps_per_generation=5 does not divide the 16 completions"),
        ({"steps_per_generation": 2, "micro_batch_size": 8}, r"micro_batch_size and model.steps_per_generation say"),
        ({"advantage": "gae", "scale_rewards": "group"}, r"scale_rewards=group has no meaning for model.advantage=gae"),
        ({"advantage": "gae", "num_generations": 0}, r"a group needs at least 1"),
        ({"num_generations": 1}, r"a group needs at least 2 .* one is enough with model.advantage=gae"),
        (
            {"multi_objective_aggregation": "normalize_then_sum", "advantage": "rloo"},
            r"goes with model.advantage=group",
        ),
        ({"dynamic_sampling": -1}, r"dynamic_sampling is -1; it must be 0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        run(tmp_path, **settings)


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed"])
@pytest.mark.parametrize("advantage", ["group", "gae"])
def test_half_precision_learns_too(precision: Any, advantage: Any, tmp_path: Path) -> None:
    dtype = "bfloat16" if precision == "bf16-true" else "float32"
    module, seen = policy(tmp_path, advantage=advantage, dtype=dtype), Recorder()
    fit(module, TinyTask(rows=4), tmp_path, seen, max_epochs=2, precision=precision)
    assert seen.metrics[-1]["grad_norm"] > 1e-3
    assert seen.metrics[-1]["sampling/sampling_logp_difference/max"] < 0.2
    assert all(torch.isfinite(value).all() for value in module.state_dict().values())


class Silent:
    """A policy without a Trainer: its completions of a prompt have 1, 2, 3 ... tokens."""

    lm, tokenizer = torch.nn.Module(), tokenizer()
    value_head = reference_copy = None

    def generate(
        self, prompts: Sequence[Prompt], samples: int = 1, seed: int = 0, *, streams: Sequence[int] | None = None
    ) -> list[Rollout]:
        return [
            Rollout(
                torch.tensor([7]), torch.arange(n), -torch.ones(n), True, "x" * n, prompt.text, prompt.columns, group
            )
            for group, prompt in enumerate(prompts)
            for n in range(1, samples + 1)
        ]

    def score(self, *_: Any) -> TokenScores:
        raise AssertionError("without a reference nothing is scored again")

    def precision(self) -> AbstractContextManager[None]:
        return nullcontext()


class Longer:
    """Worth its length."""

    name = "long"

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float | None]:
        return [float(len(rollout.text)) for rollout in rollouts]


def test_a_collector_needs_no_trainer_and_counts_tokens() -> None:
    settings = GRPOSettings({"long": 1.0}, BatchPlan(3), loss=LossSettings(beta=0.0), scale_rewards="none")
    collector = RolloutCollector(settings, RewardRunner({"long": Longer()}))
    prompts = [Prompt("a", {"index": 0}), Prompt("b", {"index": 1})]
    batch, scored, metrics = collector.collect(Silent(), prompts, CollectStep(0, 4, 9))
    assert batch.advantages.tolist() == scored.advantages.tolist() == [-1, 0, 1, -1, 0, 1]
    assert batch.reference is None
    assert (scored.epoch, scored.number) == (0, 4)
    assert (metrics["reward"], metrics["completions/mean_length"]) == (2, 2)
    assert metrics["num_tokens"] == 2 * (1 + 2 + 3) + 6
    resumed = RolloutCollector(settings, RewardRunner({"long": Longer()}))
    resumed.load_state_dict(collector.state_dict())
    assert resumed.collect(Silent(), prompts, CollectStep(0, 5, 9)).metrics["num_tokens"] == 2 * metrics["num_tokens"]


def test_the_rows_of_a_process_are_those_of_its_rank() -> None:
    settings = GRPOSettings({"long": 1.0}, BatchPlan(2), loss=LossSettings(beta=0.0), scale_rewards="none")

    def gather(values: torch.Tensor) -> torch.Tensor:
        """The other process comes first, and its rewards, in the first column, are ten times as large."""
        return torch.cat([torch.cat([values[:, :1] * 10, values[:, 1:]], 1) if values.ndim == 2 else values, values])

    collector = RolloutCollector(settings, RewardRunner({"long": Longer()}), gather, rank=1)
    batch, scored, metrics = collector.collect(Silent(), [Prompt("a", {"index": 0})], CollectStep(0, 0, 0))
    assert batch.advantages.tolist() == [-0.5, 0.5]
    assert scored.totals.tolist() == [1, 2]
    assert metrics["reward"] == (10 + 20 + 1 + 2) / 4
