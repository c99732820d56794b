"""The rewards of storyworlds in workers: the values that they have in this process."""

import torch

from lit_narrative.datamodules.storyworld import StoryworldData
from lit_narrative.rl.rewards.base import Reward
from lit_narrative.rl.rewards.runner import RewardRunner, ScoringSettings
from lit_narrative.tasks.storyworld.feature_quality import FeatureQuality
from lit_narrative.tasks.storyworld.verifiers.base import SIX
from lit_narrative.views import Rollout
from tests.rl.rewards.reward_zoo import encode

OWN = "tests.rl.rewards.reward_zoo:brevity"


def written(data: StoryworldData, count: int) -> list[Rollout]:
    """Worlds of the corpus, every third one cut short and every fourth a copy of the first."""
    prompts, none = data.prompts("train"), torch.tensor([1])
    texts = [str(prompt.columns["reference"]) for prompt in (prompts[n] for n in range(count))]
    texts = [text[: len(text) // 2] if n % 3 == 2 else texts[0] if n % 4 == 3 else text for n, text in enumerate(texts)]
    return [Rollout(none, none, none.float(), True, text, "", prompts[n].columns) for n, text in enumerate(texts)]


def test_workers_give_the_same_values() -> None:
    data = StoryworldData(train_size=24, state_worlds=4)
    names = [*SIX, "novelty", "feature_quality", OWN]
    rows, values = written(data, 24), []
    for workers, independent in ((0, ()), (2, (*SIX, OWN))):
        rewards: dict[str, Reward] = data.reward_functions(names)  # type: ignore[assignment]
        with RewardRunner(rewards, ScoringSettings(workers=workers, independent=independent)) as runner:
            assert runner.score(rows).values[:, names.index("feature_quality")].isnan().all(), "it has no SAE yet"
            quality = rewards["feature_quality"]
            assert isinstance(quality, FeatureQuality)
            quality.update_encoder(encode, data.layout, 0)
            values.append(runner.score(rows).values)
    assert torch.equal(values[0], values[1])
    assert (values[0].std(0) > 0).all(), "and each tells good from bad"
