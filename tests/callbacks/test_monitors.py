"""Monitors: signs that a policy exploits a learned reward, and training that ends when it has gone too far."""

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer

from lit_narrative.callbacks.monitors import KLCeiling, RewardMonitor, correlation
from lit_narrative.errors import UserError
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.modules.grpo import GRPOModule
from lit_narrative.modules.sft import SFTModule
from lit_narrative.rl.loss_settings import LossSettings
from lit_narrative.rl.reference import ReferenceSettings
from lit_narrative.rl.rewards.learned import LearnedReward
from lit_narrative.rl.rewards.model import RewardModel
from tests.helpers import Recorder, TinyTask, fit, grpo, sizes, tokenizer_folder
from tests.modules.ratings import Ratings, learned


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return learned(tmp_path_factory.mktemp("reward"))


def name(checkpoint: str) -> str:
    return f"lit_narrative.rl.rewards.learned:LearnedReward(checkpoint={checkpoint!r})"


def test_grpo_learns_from_it_under_watch(checkpoint: str, tmp_path: Path) -> None:
    recorder, sampling = Recorder(), SamplingParams(8)
    module = grpo(tmp_path, rewards={name(checkpoint): 1.0}, num_generations=4, sampling=sampling)
    fit(module, Ratings(), tmp_path, RewardMonitor(), recorder, max_steps=1)
    (metrics,) = recorder.metrics
    assert metrics["rewards/reward/failures"] == 0
    signs = {"ood", "saturation", "length_correlation", "repetition"}
    assert {key.removeprefix("reward/") for key in metrics if key.startswith("reward/")} == signs
    assert module.scored is not None
    own = module.scored.rollouts
    distances, beyond = LearnedReward(checkpoint).ood_score(own)
    assert metrics["reward/ood"] == pytest.approx(sum(distances) / len(own), rel=1e-4)
    assert metrics["reward/saturation"] == pytest.approx(sum(beyond) / len(own), rel=1e-4)
    assert metrics["reward"] == pytest.approx(sum(LearnedReward(checkpoint)(own)) / len(own), abs=1e-4)


def test_the_watch_does_not_read_the_texts_again(
    checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    embed = RewardModel.vectors
    monkeypatch.setattr(RewardModel, "vectors", lambda self, texts: read.extend(texts) or embed(self, texts))
    fresh = str(shutil.copy(checkpoint, tmp_path / "fresh.ckpt"))  # of which nothing is remembered yet
    module = grpo(tmp_path, rewards={name(fresh): 1.0}, num_generations=4, sampling=SamplingParams(8))
    fit(module, Ratings(), tmp_path, RewardMonitor(), max_steps=1)
    assert module.scored is not None
    assert sorted(read) == sorted({rollout.text for rollout in module.scored.rollouts})


def test_a_monitor_without_a_learned_reward(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="RewardMonitor watches learned rewards"):
        fit(grpo(tmp_path), TinyTask(), tmp_path, RewardMonitor(), max_steps=1)


def test_two_learned_rewards_of_one_name(checkpoint: str, tmp_path: Path) -> None:
    other = name(checkpoint).replace(")", ", prompt=True)")
    with pytest.raises(UserError, match=r"2 learned rewards are named 'reward'.*name="):
        fit(grpo(tmp_path, rewards={name(checkpoint): 1.0, other: 1.0}), Ratings(), tmp_path, RewardMonitor())


def test_correlation() -> None:
    assert correlation([1.0, 2.0, float("nan"), 3.0], [2.0, 4.0, 0.0, 6.0]) == pytest.approx(1.0)
    assert correlation([1.0, 1.0], [2.0, 4.0]) == 0.0
    assert correlation([1.0], [2.0]) == 0.0


def policy(folder: Path, beta: float = 0.04, **settings: Any) -> GRPOModule:
    """Two windows an epoch, two optimizer steps each; its first step is at the reference, where kl is 0."""
    given: dict[str, Any] = {
        "num_generations": 2,
        "micro_batch_size": 2,
        "sampling": SamplingParams(6),
        "loss": LossSettings(beta=beta),
        "lr": 1e-2,
    }
    return grpo(folder, **{**given, **settings})


def run(folder: Path, *callbacks: Any, module: GRPOModule | None = None, **options: Any) -> Trainer:
    given = {"max_epochs": 3, "accumulate_grad_batches": 2, **options}
    return fit(module or policy(folder), TinyTask(rows=8), folder, *callbacks, **given)


@pytest.fixture(scope="module")
def kl(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """What a run without a ceiling logs as kl, an entry an optimizer step."""
    seen = Recorder()
    run(tmp_path_factory.mktemp("logged"), seen)
    return [row["kl"] for row in seen.metrics[1::2]]


def test_training_ends_at_the_first_step_above(
    kl: list[float], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert kl[0] == pytest.approx(0, abs=1e-6) and max(kl) > 0.001
    ceiling = (max(kl[:6]) + sorted(kl[:6])[-2]) / 2  # only one of six steps lies above
    with caplog.at_level(logging.WARNING, "lit_narrative"):
        steps = run(tmp_path, KLCeiling(ceiling)).global_step
    assert steps == kl.index(max(kl[:6])) + 1
    (line,) = [record.getMessage() for record in caplog.records if "max_kl" in record.getMessage()]
    assert line == f"stopping: kl={kl[steps - 1]:.4g}, above max_kl={ceiling:.4g} for 1 optimizer steps in a row"


def test_below_the_ceiling_nothing_happens(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "lit_narrative"):
        assert run(tmp_path, KLCeiling(1e6)).global_step == 12
    assert not [record for record in caplog.records if "max_kl" in record.getMessage()]


@pytest.mark.parametrize("patience", [1, 2, 4])
def test_patience_counts_optimizer_steps_in_a_row(patience: int, kl: list[float], tmp_path: Path) -> None:
    ceiling = min(kl[1:]) / 2  # all but the first step lie above
    assert run(tmp_path, KLCeiling(ceiling, patience)).global_step == 1 + patience


def test_a_step_below_starts_the_count_again(kl: list[float], tmp_path: Path) -> None:
    ceiling = sorted(kl)[len(kl) // 2]
    above = [value > ceiling for value in kl]
    expected = next((n + 1 for n in range(1, len(kl)) if above[n - 1] and above[n]), len(kl))
    assert run(tmp_path, KLCeiling(ceiling, 2)).global_step == expected


def test_patience_outlives_a_kill(kl: list[float], tmp_path: Path) -> None:
    ceiling = min(kl[1:]) / 2
    before, after = KLCeiling(ceiling, 6), KLCeiling(ceiling, 6)
    run(tmp_path, before, max_epochs=1)
    assert before.state_dict() == {"above": 3}
    after.load_state_dict(before.state_dict())
    assert run(tmp_path, after, module=policy(tmp_path, lr=0.0), max_epochs=1).global_step == 4
    assert after.state_dict() == {"above": 0}  # at learning rate 0 the policy is its reference


def test_a_reference_to_measure_by_is_enough(tmp_path: Path) -> None:
    watched = policy(tmp_path, beta=0.0, reference=ReferenceSettings("copy"))
    assert run(tmp_path, KLCeiling(1e6), module=watched, max_epochs=1).global_step == 4
    with pytest.raises(UserError, match=r"KLCeiling has nothing to watch: .* set model\.loss\.beta above 0, or"):
        run(tmp_path, KLCeiling(0.1), module=policy(tmp_path, beta=0.0))


def test_a_module_without_kl_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"KLCeiling needs a module with a reference policy.*; SFTModule logs no kl"):
        fit(SFTModule(sizes(), tokenizer_folder(tmp_path)), TinyTask(), tmp_path, KLCeiling(0.1), max_steps=1)


@pytest.mark.parametrize(
    "settings", [{"max_kl": 0}, {"max_kl": -1}, {"max_kl": float("nan")}, {"max_kl": 1, "patience": 0}]
)
def test_a_ceiling_that_means_nothing_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="callback KLCeiling: "):
        KLCeiling(**settings)
