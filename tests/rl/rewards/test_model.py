"""RewardModel: read from a checkpoint without its module, from those of the release before too."""

import json
from pathlib import Path

import pytest
import torch

from lit_narrative.modules.reward import RewardModule
from lit_narrative.rl.rewards.learned import LearnedReward
from lit_narrative.rl.rewards.model import RewardModel
from tests.modules.ratings import learned, texts
from tests.paths import EARLIER


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return learned(tmp_path_factory.mktemp("reward"))


def test_it_is_read_without_the_module_that_trained_it(checkpoint: str) -> None:
    model, module = RewardModel.load(checkpoint), RewardModule.load_from_checkpoint(checkpoint)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.score_and_distance(texts(5, 4)) == module.score_and_distance(texts(5, 4))


def test_the_weights_have_the_names_of_the_release_before(checkpoint: str) -> None:
    now, before = (torch.load(path, weights_only=True) for path in (checkpoint, EARLIER / "reward.ckpt"))
    assert set(now["state_dict"]) == set(before["state_dict"])
    assert now["hyper_parameters"].keys() <= before["hyper_parameters"].keys()


def test_a_checkpoint_of_the_release_before_scores_as_it_did() -> None:
    path: Path = EARLIER / "reward.ckpt"
    rated, scores, distances = json.loads((EARLIER / "reward.json").read_text())
    for model in (RewardModel.load(path), RewardModule.load_from_checkpoint(path)):
        assert model.score_and_distance(rated) == (pytest.approx(scores, abs=1e-6), pytest.approx(distances, abs=1e-6))
    assert LearnedReward(str(path)).rate(rated) == pytest.approx(scores, abs=1e-6)
