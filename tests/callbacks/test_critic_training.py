"""The critic learns along with the policy: on what, by how much, for whom, and across a kill."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_narrative.callbacks.critic_training import CriticTraining, best_of_groups, compare_paths
from lit_narrative.errors import UserError
from lit_narrative.lm.vectors.reconstructor import Reconstructor
from lit_narrative.modules.grpo import GRPOModule
from lit_narrative.views import ScoredRollouts
from tests.helpers import Recorder, TinyTask, fit, grpo, trainer, weights
from tests.modules.described import Explaining, actor, critic, rollout, vectors

SAMPLING = {"max_new_tokens": 8}


def policy(where: Path, **settings: Any) -> GRPOModule:
    given = {"rewards": {"reconstruction": 1.0}, "num_generations": 4, "sampling": SAMPLING, "lr": 1e-3}
    return GRPOModule(**{"model": actor(where), "micro_batch_size": 8, **given, **settings})


class Watched(CriticTraining):
    """Keeps the critic's weights as they were before each rollout batch and after it, and what it was logged as."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.before: list[dict[str, torch.Tensor]] = []
        self.after: list[dict[str, torch.Tensor]] = []
        self.scored: list[ScoredRollouts] = []

    def on_rollouts(self, trainer: Any, module: Any, scored: ScoredRollouts) -> None:
        assert self.critic is not None
        self.before.append(weights(self.critic))
        self.scored.append(scored)
        super().on_rollouts(trainer, module, scored)
        self.after.append(weights(self.critic))


def run(where: Path, callback: CriticTraining, *others: Any, data: Any = None, **options: Any) -> Any:
    options = {"accumulate_grad_batches": 4, "max_steps": 2, **options}
    module = policy(where)
    fit(module, data or Explaining(critic(where)), where, callback, *others, **options)
    return module


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


def test_each_rollout_batch_is_one_step_on_its_explanations_after_it_was_scored(tmp_path: Path) -> None:
    recorder, callback, data = Recorder(), Watched(lr=1e-2), Explaining(critic(tmp_path))
    run(tmp_path, callback, recorder, data=data, max_steps=3)
    assert len(callback.scored) == 3
    assert not same(callback.before[0], callback.after[0])
    assert all(same(after, before) for after, before in zip(callback.after, callback.before[1:], strict=False))
    # The rewards are of the critic before its step, the loss that of the same critic on the same texts.
    scored = callback.scored[0]
    reward = Explaining(critic(tmp_path)).reward
    errors = [error for error in reward.errors(scored.rollouts) if error is not None]
    assert 3 < len(errors) < len(scored.rollouts)
    given = scored.rewards["reconstruction"]
    assert sorted(-given[given > -2.0]) == pytest.approx(sorted(error for error in errors if error < 2), abs=1e-4)
    assert recorder.metrics[0].get("critic/loss", recorder.metrics[1].get("critic/loss")) == pytest.approx(
        sum(errors) / len(errors), rel=1e-4
    )
    assert data.versions == [0, 1, 2, 3]
    assert data.reward.version == 3
    assert callback.critic is not None
    assert torch.equal(data.reconstruct(["salt"]), callback.critic.reconstruct(["salt"]))  # type: ignore[misc]


@pytest.mark.parametrize("settings", [{"micro_batch_size": 2}, {"micro_batch_size": 1000}])
def test_micro_batches_make_no_difference(tmp_path: Path, settings: dict[str, Any]) -> None:
    plain, other = Watched(lr=1e-3), Watched(lr=1e-3, **settings)
    run(tmp_path, plain, max_steps=1)
    run(tmp_path, other, max_steps=1)
    for name, value in plain.after[0].items():
        assert torch.allclose(value, other.after[0][name], atol=1e-5)


def test_it_may_learn_from_the_best_of_each_group_alone(tmp_path: Path) -> None:
    every, best = Watched(), Watched(learns_from="best", epochs=2)
    run(tmp_path, every, max_steps=1)
    run(tmp_path, best, max_steps=1)
    assert not same(every.after[0], best.after[0])


def test_the_best_is_the_highest_total_and_of_equals_the_first() -> None:
    rows = [rollout("salt", group=group) for group in (0, 0, 0, 1, 1, 2)]
    totals = torch.tensor([1.0, 3.0, 3.0, torch.nan, 0.0, -2.0])
    scored = ScoredRollouts(0, 0, rows, {}, totals, totals)
    assert best_of_groups(scored, range(6)) == [1, 4, 5]
    assert best_of_groups(scored, [0, 2, 3]) == [2, 3]


def test_a_step_that_is_not_finite_is_skipped_and_counted(tmp_path: Path) -> None:
    class Broken(Watched):
        def on_rollouts(self, trainer: Any, module: Any, scored: ScoredRollouts) -> None:
            assert self.critic is not None
            hook = self.critic.readout.register_forward_hook(lambda module, args, out: out * torch.nan)
            if len(self.scored) != 1:
                hook.remove()
            self._compared = True
            super().on_rollouts(trainer, module, scored)
            hook.remove()

    callback = Broken(lr=1e-2)
    run(tmp_path, callback, max_steps=3)
    changed = [not same(*pair) for pair in zip(callback.before, callback.after, strict=True)]
    assert changed == [True, False, True]
    assert callback.guard.skipped == 1


def test_a_critic_that_never_finds_its_footing_ends_the_run(tmp_path: Path) -> None:
    class Broken(Watched):
        def on_rollouts(self, trainer: Any, module: Any, scored: ScoredRollouts) -> None:
            self._compared = True
            super().on_rollouts(trainer, module, scored)

    callback = Broken(max_skipped_steps=2)
    data = Explaining(critic(tmp_path))
    callback.set_critic(Reconstructor.load(data.reward.checkpoint))
    callback.critic.readout.register_forward_hook(lambda module, args, out: out * torch.inf)  # type: ignore[union-attr]
    with pytest.raises(UserError, match=r"lower CriticTraining\.lr|failed on every completion"):
        run(tmp_path, callback, data=data, max_steps=5)


def test_a_killed_run_ends_as_an_unbroken_one(tmp_path: Path) -> None:
    whole, first, rest = (CriticTraining(lr=1e-2, warmup_steps=3) for _ in range(3))
    settings = {"baseline": "ema"}
    expected = run(tmp_path, whole, data=Explaining(critic(tmp_path), settings), max_steps=4)
    saves = ModelCheckpoint(tmp_path / "kept", filename="two", every_n_train_steps=2)
    data = Explaining(critic(tmp_path), settings)
    run(tmp_path, first, saves, data=data, max_steps=3, enable_checkpointing=True)
    module, data = policy(tmp_path), Explaining(critic(tmp_path), settings)
    again = trainer(tmp_path, rest, max_steps=4, accumulate_grad_batches=4)
    again.fit(module, data, ckpt_path=str(tmp_path / "kept" / "two.ckpt"))
    assert (rest.version, rest.guard.skipped) == (whole.version, whole.guard.skipped) == (4, 0)
    for one, other in ((expected.lm, module.lm), (whole.critic, rest.critic)):
        assert one is not None
        assert other is not None
        found = weights(other)
        assert all(torch.allclose(value, found[name], atol=1e-6) for name, value in weights(one).items())


def test_the_checkpoint_of_the_run_holds_the_critic(tmp_path: Path) -> None:
    callback = CriticTraining(lr=1e-2)
    saves = ModelCheckpoint(tmp_path / "kept", save_last=True)
    module = run(tmp_path, callback, saves, max_steps=2, enable_checkpointing=True)
    path = tmp_path / "kept" / "last.ckpt"
    texts = ["salt", "tide lantern"]
    assert callback.critic is not None
    expected = callback.critic.reconstruct(texts)
    assert torch.allclose(Reconstructor.load(path).reconstruct(texts), expected, atol=1e-6)
    assert not torch.allclose(Reconstructor.load(tmp_path / "critic.ckpt").reconstruct(texts), expected, atol=1e-3)
    data = Explaining(critic(tmp_path))
    trainer(tmp_path, CriticTraining(), limit_test_batches=1).test(module, data, ckpt_path=str(path), verbose=False)
    assert data.versions == [2]
    assert torch.allclose(data.reconstruct(texts), expected, atol=1e-6)  # type: ignore[misc]


def test_a_run_without_a_reward_that_reads_by_a_critic_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no reward of model.rewards"):
        fit(grpo(tmp_path, sampling=SAMPLING), TinyTask(), tmp_path, CriticTraining(), max_steps=1)


def test_a_reward_that_reads_by_another_critic_is_told(tmp_path: Path) -> None:
    data = Explaining(critic(tmp_path))
    rows = [rollout(text, target) for text, target in zip(["salt", "tide"], vectors(["salt", "tide"]), strict=True)]
    compare_paths(Reconstructor.load(tmp_path / "critic.ckpt"), data.reward, rows)
    other = Reconstructor.load(critic(tmp_path, seed=6))
    with pytest.raises(UserError, match=r"in the reward and of .* in training"):
        compare_paths(other, data.reward, rows)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learns_from": "worst"}, "there is no 'worst'"),
        ({"epochs": 0}, "epochs is 0"),
        ({"micro_batch_size": 0}, "micro_batch_size is 0"),
        ({"lr": float("inf")}, "lr=inf must be a number"),
        ({"max_skipped_steps": 0}, r"CriticTraining\.max_skipped_steps is 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CriticTraining(**settings)
