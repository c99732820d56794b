"""LearnedReward: a trained reward model as a reward of GRPO, and as a judge of candidates."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from lit_narrative.errors import UserError
from lit_narrative.lm.sampler import LoopSampler, SamplingParams
from lit_narrative.modules.reward import RewardModule
from lit_narrative.rl.best_of import BestOf
from lit_narrative.rl.rewards.base import Reward
from lit_narrative.rl.rewards.learned import LearnedReward, _last
from lit_narrative.rl.rewards.loading import import_reward
from lit_narrative.views import Rollout
from tests.helpers import requests, tiny_lm, tokenizer
from tests.modules.ratings import learned, texts


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return learned(tmp_path_factory.mktemp("reward"))


def rollout(text: str, prompt: str = "") -> Rollout:
    ids = torch.tensor([1, 2, 3])
    return Rollout(ids, ids, torch.zeros(3), True, text, prompt)


def test_it_gives_the_model_s_scores(checkpoint: str) -> None:
    reward = LearnedReward(checkpoint)
    found = ["wave tide", "oak moss", "", "\x00 �", "wave " * 500]
    assert reward([rollout(text) for text in found]) == pytest.approx(
        RewardModule.load_from_checkpoint(checkpoint).score(found), abs=1e-5
    )
    assert isinstance(reward, Reward)
    assert not any(parameter.requires_grad for parameter in reward.model.parameters())


def test_only_the_last_batch_is_remembered(checkpoint: str) -> None:
    reward = LearnedReward(checkpoint)
    first = reward.rate(["wave", "oak", "wave"])
    assert set(_last[reward.model]) == {"wave", "oak"}
    assert reward.rate(["oak", "tide"])[0] == first[1]
    assert set(_last[reward.model]) == {"oak", "tide"}
    assert reward.rate(["wave", "oak", "wave"]) == pytest.approx(first, abs=1e-5)
    assert reward.rate([]) == []


def test_the_prompt_is_judged_if_wanted(checkpoint: str) -> None:
    (alone,) = LearnedReward(checkpoint)([rollout(" oak", "wave tide")])
    (whole,) = LearnedReward(checkpoint, prompt=True)([rollout(" oak", "wave tide")])
    assert [alone, whole] == pytest.approx(LearnedReward(checkpoint).rate([" oak", "wave tide oak"]), abs=1e-5)


def test_gibberish_is_not_worth_more_than_texts(checkpoint: str) -> None:
    reward, rng = LearnedReward(checkpoint), np.random.default_rng(0)
    gibberish = ["".join(map(chr, rng.integers(33, 127, 40))) for _ in range(20)]
    assert max(reward.rate([*gibberish, ""])) < max(reward.rate(texts(100, 8)))
    assert np.mean(reward.ood_score([rollout(text) for text in gibberish])[0]) > 2


def test_it_is_named_in_a_configuration(checkpoint: str) -> None:
    found = import_reward(f"lit_narrative.rl.rewards.learned:LearnedReward(checkpoint={checkpoint!r}, name='sea')")
    assert found == LearnedReward(checkpoint, name="sea")


def test_workers_are_sent_the_file_s_name_and_not_the_model(checkpoint: str) -> None:
    LearnedReward(checkpoint).rate(["wave"])
    sent = pickle.dumps(LearnedReward(checkpoint))
    assert len(sent) < 1000
    assert pickle.loads(sent) == LearnedReward(checkpoint)


def test_the_best_of_several_samples_is_chosen_by_it(checkpoint: str) -> None:
    lm, group = tiny_lm(), requests(group=2)
    sampler = BestOf(LoopSampler(), 4, LearnedReward(checkpoint))
    chosen = sampler.sample(lm, tokenizer(), group, SamplingParams(8))
    plain = LoopSampler().sample(lm, tokenizer(), group, SamplingParams(8))
    better, before = LearnedReward(checkpoint)(chosen), LearnedReward(checkpoint)(plain)
    assert all(now >= then for now, then in zip(better, before, strict=True))
    assert sum(better) > sum(before)


def test_a_file_trained_anew_is_read_anew(checkpoint: str, tmp_path: Path) -> None:
    path = tmp_path / "reward.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    torch.save(content, path)
    (before,) = LearnedReward(str(path)).rate(["wave"])
    content["state_dict"]["head.score_mean"] += 5
    torch.save(content, path)
    assert LearnedReward(str(path)).rate(["wave"]) == pytest.approx([before + 5], abs=1e-4)


def test_what_is_no_reward_model(checkpoint: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint at"):
        LearnedReward(str(tmp_path / "none.ckpt"))
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match=r"other\.ckpt' holds no reward model"):
        LearnedReward(str(tmp_path / "other.ckpt"))
    content = torch.load(checkpoint, weights_only=True)
    content["state_dict"]["head.steps"].zero_()
    torch.save(content, tmp_path / "untrained.ckpt")
    with pytest.raises(UserError, match="never trained"):
        LearnedReward(str(tmp_path / "untrained.ckpt"))


def test_ood_score_tells_texts_that_are_unlike_the_training_set(checkpoint: str, tmp_path: Path) -> None:
    reward, found = LearnedReward(checkpoint), [rollout(text) for text in texts(50, 7)]
    distances, beyond = reward.ood_score(found)
    assert sum(distances) / 50 == pytest.approx(1.0, abs=0.3)
    assert sum(beyond) <= 2
    (distance,), _ = reward.ood_score([rollout("wave wave wave wave wave wave")])
    assert distance > 1.5
    content = torch.load(checkpoint, weights_only=True)
    content["state_dict"]["head.score_range"] = torch.tensor([0.3, 0.5])
    torch.save(content, tmp_path / "narrow.ckpt")
    narrow = LearnedReward(str(tmp_path / "narrow.ckpt"))
    _, beyond = narrow.ood_score(found)
    assert beyond == [not 0.3 <= score <= 0.5 for score in narrow(found)]
    assert set(beyond) == {True, False}
