"""RewardMonitor: signs that a policy exploits a learned reward, logged and not rewarded."""

import shutil
from pathlib import Path

import pytest

from lit_narrative.callbacks.monitors import RewardMonitor, correlation
from lit_narrative.errors import UserError
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.rl.rewards.learned import LearnedReward
from lit_narrative.rl.rewards.model import RewardModel
from tests.helpers import Recorder, TinyTask, fit, grpo
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
    assert metrics[f"rewards/{name(checkpoint)}/failures"] == 0
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
