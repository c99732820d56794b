"""What a GRPO step is: its invariants."""

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import nn

from lit_narrative.datamodules.storyworld import StoryworldData
from lit_narrative.lm.load import Lora
from lit_narrative.lm.logprobs import score_completions, to_rows
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.lm.turns import TurnSettings
from lit_narrative.modules.grpo import GRPOModule
from lit_narrative.rl.batch import RolloutBatch
from lit_narrative.rl.loss_settings import LossSettings, LossType
from tests.helpers import ARCHITECTURES, Recorder, TinyTask, fit, grpo, others_slow, sizes, weights
from tests.rewards import LowTokens

TALE = str(Path(__file__).parents[1] / "data" / "grammars" / "tale.json")
TURNS = TurnSettings("critic", observation_tokens=16)
LOSSES: tuple[LossType, ...] = get_args(LossType)


def policy(
    folder: Path, architecture: str = "llama", kind: type[GRPOModule] = GRPOModule, **settings: Any
) -> GRPOModule:
    """Four completions a prompt; with the four prompts of a batch sixteen a rollout batch."""
    given: dict[str, Any] = {
        "model": sizes(architecture, dropout=0.1, layers=2),
        "num_generations": 4,
        "micro_batch_size": 16,
        "sampling": SamplingParams(12, temperature=0.9),
        "lr": 1e-2,
    }
    return grpo(folder, kind, **{**given, **settings})


class Plain(GRPOModule):
    """By stochastic gradient descent, so that a difference in the weights is one of the gradients."""

    def configure_optimizers(self) -> Any:
        scale = (
            1 / 12 if self.settings.loss.loss_type == "luspo" else 1.0
        )  # it sums over tokens and divides by rows alone
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=scale)


class Mixed(Plain):
    """With the rows of every micro-batch in another order."""

    def split_minibatches(self, rollouts: RolloutBatch, number: int, iteration: int) -> list[RolloutBatch]:
        return [
            batch.select(torch.arange(len(batch.mask)).flip(0))
            for batch in super().split_minibatches(rollouts, number, iteration)
        ]


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float = 1e-6) -> None:
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], atol=tolerance, rtol=1e-4)


STILL = [f"{architecture} {kind}" for architecture in ARCHITECTURES for kind in ("free", "grammar", "turns")]


# Each kind of sampling once, and both architectures.
@pytest.mark.parametrize("case", others_slow(STILL, {"gpt2 free", "llama grammar", "llama turns"}))
def test_a_policy_that_stands_still_has_no_divergence_and_nothing_to_clip(case: str, tmp_path: Path) -> None:
    """Invariant 2, with dropout in the model and two passes over each rollout batch."""
    architecture, _, kind = case.partition(" ")
    settings: dict[str, Any] = {} if kind == "free" else VARIANTS[kind]
    module, seen = (
        policy(
            tmp_path,
            architecture,
            lr=0.0,
            num_iterations=2,
            micro_batch_size=4,
            loss=LossSettings(epsilon=1e-4),
            **settings,
        ),
        Recorder(),
    )
    fit(module, TinyTask(), tmp_path, seen, max_epochs=2)
    assert len(seen.metrics) == 2 * 2 * 2 * 4
    for metrics in seen.metrics:
        assert abs(metrics["kl"]) <= 1e-6
        assert [metrics[f"clip_ratio/{name}_mean"] for name in ("low", "high", "region")] == [0, 0, 0]
    batch = seen.batches[0]
    module.lm.train()
    noisy = to_rows(score_completions(module.lm, batch.batch, temperature=0.9).logprobs, batch.mask)
    assert (noisy - batch.old).abs().max() > 1e-3


VARIANTS: dict[str, dict[str, Any]] = {
    "sequence": {"loss": LossSettings("grpo", "sequence")},
    "sentence": {"loss": LossSettings("dapo", "sentence")},
    "top entropy": {"loss": LossSettings(top_entropy_quantile=0.3)},
    "entropy bonus": {"loss": LossSettings(entropy_coef=0.05)},
    "adaptive entropy": {"loss": LossSettings(use_adaptive_entropy=True, entropy_target=9.0, entropy_coef=0.1)},
    "top entropy and bonus": {"loss": LossSettings(top_entropy_quantile=0.3, entropy_coef=0.05)},
    "no truncated": {"loss": LossSettings("dapo", mask_truncated_completions=True), "sampling": SamplingParams(80)},
    "off policy": {"loss": LossSettings(off_policy_mask_threshold=0.01)},
    "corrected": {"loss": LossSettings(importance_sampling_mode="sequence_mask")},
    "divergence in reward": {"loss": LossSettings(kl_in_reward=True, kl_estimator="k1", beta=0.3)},
    "k1": {"loss": LossSettings(kl_estimator="k1", beta=0.3)},
    "gae": {"advantage": "gae"},
    "grammar": {"sampling": SamplingParams(30, temperature=0.9, grammar=TALE)},
    "rloo": {"advantage": "rloo", "scale_rewards": "none"},
    "turns": {"advantage": "gae", "sampling": SamplingParams(24, temperature=0.9, grammar=TALE), "turns": TURNS},
}
SETTINGS = {loss_type: {"loss": LossSettings(loss_type)} for loss_type in LOSSES} | VARIANTS
QUICK = {"dapo", "luspo", "sentence", "top entropy and bonus", "no truncated", "corrected", "divergence in reward"}
QUICK |= {"gae", "turns"}


@pytest.mark.parametrize("name", others_slow(SETTINGS, QUICK))
def test_neither_the_micro_batch_size_nor_the_order_of_rows_matters(name: str, tmp_path: Path) -> None:
    """Invariant 3: sixteen completions at once, or in parts, in another order, that together make the same step."""
    found = []
    for kind, size, parts in ((Plain, 16, 1), (Plain, 3, 6), (Mixed, 8, 2)):  # six parts, the last of one row
        module = policy(tmp_path, kind=kind, micro_batch_size=size, **SETTINGS[name])
        runner = fit(module, TinyTask(), tmp_path, max_steps=2, accumulate_grad_batches=parts)
        assert runner.global_step == 2
        found.append(weights(module))
    start = weights(policy(tmp_path).source.build()[0])
    assert max(float((found[0][f"lm.{name}"] - value).abs().max()) for name, value in start.items()) > 1e-3
    for other in found[1:]:
        same(other, found[0])


def initial(folder: Path, architecture: str = "llama") -> nn.Module:
    """The policy before any step."""
    module = policy(folder, architecture, lr=0.0)
    fit(module, TinyTask(), folder, max_steps=1)
    return module.lm


class Ages(GRPOModule):
    """Notes at which step each rollout batch was sampled, and how old the policy of its samples is at each step."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.sampled = -1
        self.ages: list[int] = []

    def rollout_batch(self, prompts: Any, number: int, resumed: bool, following: Any) -> RolloutBatch:
        self.sampled = self.trainer.global_step
        return super().rollout_batch(prompts, number, resumed, following)

    def training_step(self, batch: RolloutBatch, batch_idx: int) -> torch.Tensor:
        self.ages.append(self.trainer.global_step - self.sampled)
        return super().training_step(batch, batch_idx)


def test_every_rollout_batch_is_sampled_by_the_policy_after_the_last_step(tmp_path: Path) -> None:
    """Two rollout batches an epoch, two passes of two steps each: no batch is fetched ahead."""
    module = policy(tmp_path, kind=Ages, micro_batch_size=8, num_iterations=2)
    runner = fit(module, TinyTask(), tmp_path, max_epochs=2)
    assert module.ages == [0, 1, 2, 3] * 4
    assert runner.global_step == 16


def test_each_pass_learns_from_every_completion_once(tmp_path: Path) -> None:
    module, seen = policy(tmp_path, micro_batch_size=4, num_iterations=3), Recorder()
    fit(module, TinyTask(rows=4), tmp_path, seen, max_epochs=1, accumulate_grad_batches=2)
    assert len(seen.batches) == 3 * 4
    orders = []
    for first in (0, 4, 8):
        rows = [tuple(ids.tolist()) for batch in seen.batches[first : first + 4] for ids in trimmed(batch)]
        orders.append(rows)
        assert len(rows) == 16
        assert sorted(rows) == sorted(orders[0])
    assert orders[0] != orders[1]
    assert {batch.totals.rows for batch in seen.batches} == {8}
    for first in range(0, 12, 2):
        pair = seen.batches[first : first + 2]
        assert {batch.totals.tokens for batch in pair} == {sum(int(batch.mask.sum()) for batch in pair)}


def trimmed(batch: RolloutBatch) -> list[torch.Tensor]:
    """Prompt and completion of each row without padding."""
    ends = (batch.batch.targets * torch.arange(1, batch.batch.ids.shape[1] + 1)).amax(1)
    return [ids[:end] for ids, end in zip(batch.batch.ids, ends, strict=True)]


def test_old_and_reference_are_the_samplers_and_the_first_policys(tmp_path: Path) -> None:
    """After several steps: old scores are the current policy's, the reference stays where the run began."""
    module, seen = policy(tmp_path, lr=5e-2), Recorder()
    fit(module, TinyTask(), tmp_path, seen, max_epochs=3)
    first, last = seen.batches[0], seen.batches[-1]
    start = initial(tmp_path)
    for batch in (first, last):
        expected = to_rows(score_completions(start, batch.batch, temperature=0.9).logprobs, batch.mask)
        torch.testing.assert_close(batch.reference, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(first.old, first.reference, atol=1e-5, rtol=0)
    assert (last.old - last.reference).abs().max() > 0.05
    assert seen.metrics[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert seen.metrics[-1]["kl"] > 1e-4


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_adapters_alone_learn_and_switched_off_they_are_the_reference(architecture: str, tmp_path: Path) -> None:
    module, seen = policy(tmp_path, architecture, lora=Lora(r=2), lr=5e-2), Recorder()
    fit(module, TinyTask(), tmp_path, seen, max_epochs=2)
    assert not hasattr(module, "reference")
    before = weights(initial(tmp_path, architecture))
    base = {name: p for name, p in module.lm.named_parameters() if "lora_" not in name}
    for (name, after), expected in zip(base.items(), before.values(), strict=True):
        assert torch.equal(after, expected), name
    batch = seen.batches[-1]
    with module.lm.disable_adapter():  # type: ignore[operator]
        off = to_rows(score_completions(module.lm, batch.batch, temperature=0.9).logprobs, batch.mask)
    torch.testing.assert_close(batch.reference, off, atol=1e-5, rtol=0)
    assert seen.metrics[-1]["kl"] > 1e-5


class Forwards(Recorder):
    """Counts the passes into the blocks: one more a step for each that is recomputed."""

    count = 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        def note(block: nn.Module, inputs: Any) -> None:
            self.count += 1

        for name, block in pl_module.lm.named_modules():
            if name.endswith(".mlp"):
                block.register_forward_pre_hook(note)


SAVED = {f"{architecture} {kind}" for architecture in ARCHITECTURES for kind in ("full", "lora")}


@pytest.mark.parametrize("case", others_slow(sorted(SAVED), {"gpt2 lora", "llama full"}))
def test_checkpointing_the_activations_gives_the_same_gradients(case: str, tmp_path: Path) -> None:
    architecture, _, kind = case.partition(" ")
    lora = Lora(r=2) if kind == "lora" else None
    found, forwards = [], []
    for saving in (False, True):
        seen = Forwards()
        # One completion at a time: completions that share a prompt are read in two parts, unless memory is saved.
        module = policy(tmp_path, architecture, lora=lora, gradient_checkpointing=saving, micro_batch_size=1)
        fit(module, TinyTask(), tmp_path, seen, max_steps=2, accumulate_grad_batches=16)
        found.append(seen.gradients)
        forwards.append(seen.count)
    assert forwards[1] == forwards[0] + 2 * 2 * 16  # two blocks, two steps of sixteen micro-batches
    for plain, saved in zip(*found, strict=True):
        assert plain
        same(saved, plain)


def test_without_beta_there_is_no_reference(tmp_path: Path) -> None:
    module, seen = policy(tmp_path, loss=LossSettings(beta=0.0)), Recorder()
    fit(module, TinyTask(), tmp_path, seen, max_steps=1)
    assert not hasattr(module, "reference")
    assert seen.batches[0].reference is None
    assert "kl" not in seen.metrics[0]


def brevity(context: Any) -> float:
    """A rule for storyworlds, by its text."""
    return 1 / (1 + len(context.text))


def test_rewards_may_be_objects_and_functions_and_leave_plain_names_in_the_checkpoint(tmp_path: Path) -> None:
    module = grpo(
        tmp_path,
        rewards={"valid_json": 1.0, LowTokens(): 0.5, brevity: 0.25},
        num_generations=2,
        sampling=SamplingParams(4),
    )
    data = StoryworldData(train_size=2, val_size=2, test_size=2, batch_size=2)
    runner = fit(module, data, tmp_path, max_steps=1)
    names = ("valid_json", "low", f"{__name__}:brevity")
    means = [float(runner.callback_metrics[f"rewards/{name}/mean"]) for name in names]
    assert 0 < means[1] < 1 and means[2] == 0  # rules read worlds, and these letters are none
    assert float(runner.callback_metrics["reward"]) == pytest.approx(means[0] + means[1] / 2 + means[2] / 4, abs=1e-5)
    runner.save_checkpoint(tmp_path / "run.ckpt")
    loaded = GRPOModule.load_from_checkpoint(tmp_path / "run.ckpt")
    assert loaded.hparams["rewards"] == dict(zip(names, (1.0, 0.5, 0.25), strict=True))
    again = GRPOModule.load_from_checkpoint(tmp_path / "run.ckpt", rewards={LowTokens(): 1.0})
    assert fit(again, data, tmp_path, max_steps=1).global_step == 1
