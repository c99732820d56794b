"""The reconstruction reward: what errors are worth, what earns the floor, and what the critic reads."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from lit_narrative.errors import UserError
from lit_narrative.lm.vectors.fve import losses
from lit_narrative.lm.vectors.reconstructor import Reconstructor
from lit_narrative.rl.advantages import group_advantages
from lit_narrative.rl.rewards.base import Reward, UsesCritic
from lit_narrative.rl.rewards.reconstruction import (
    ReconstructionReward,
    ReconstructionSettings,
    RunningBaseline,
    beginning,
    standardised,
    transformed,
)
from lit_narrative.rl.rewards.runner import RewardRunner, ScoringSettings
from tests.modules.described import critic, rollout, vectors, words
from tests.paths import GOLDEN

TEXTS = ["salt tide", "a lantern", "tide tide 3"]


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    if not (GOLDEN / "nla.pt").is_file():
        pytest.skip(f"no golden values at {GOLDEN}; set LIT_GOLDEN")
    return torch.load(GOLDEN / "nla.pt", weights_only=True)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return critic(tmp_path_factory.mktemp("critic"))


def reward(checkpoint: str, **settings: Any) -> ReconstructionReward:
    return ReconstructionReward(checkpoint, words, ReconstructionSettings(**settings))


def rollouts(**settings: Any) -> list[Any]:
    return [rollout(text, target, **settings) for text, target in zip(TEXTS, vectors(TEXTS), strict=True)]


def errors(checkpoint: str, texts: list[str] = TEXTS) -> torch.Tensor:
    model = Reconstructor.load(checkpoint)
    return losses(model.reconstruct(texts), torch.tensor(vectors(TEXTS)), "mse", 4.0)


def test_it_is_a_reward_that_uses_a_critic(checkpoint: str) -> None:
    assert isinstance(reward(checkpoint), Reward)
    assert isinstance(reward(checkpoint), UsesCritic)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, lambda e: -e),
        ({"scale": 3.0}, lambda e: -3 * e),
        ({"transform": "exp", "steepness": 0.5}, lambda e: (-0.5 * e).exp()),
        ({"transform": "bounded"}, lambda e: 1 / (1 + e)),
        ({"transform": "log"}, lambda e: -e.log()),
        ({"clip": [-1.8, -1.0]}, lambda e: (-e).clamp(-1.8, -1.0)),
        ({"baseline": "batch"}, lambda e: (e.mean() - e) / (e.std() + 1e-8)),
        ({"baseline": "ema"}, lambda e: (e.mean() - e) / (e.std() + 1e-8)),
    ],
)
def test_an_error_is_worth(checkpoint: str, settings: dict[str, Any], expected: Any) -> None:
    found = torch.tensor(reward(checkpoint, **settings)(rollouts()))
    assert torch.allclose(found, expected(errors(checkpoint)), atol=1e-5)


@pytest.mark.parametrize("answer", [{"text": ""}, {"text": " \n\t"}, {"finished": False}])
def test_what_is_no_explanation_earns_the_floor(checkpoint: str, answer: dict[str, Any]) -> None:
    target = vectors(TEXTS)[0]
    bad = rollout(**{"text": "salt", "target": target, **answer})
    scored = reward(checkpoint)([bad, rollout("salt", target), bad])
    assert scored[0] == scored[2] == -2.0
    assert scored[1] > -2.0 or scored[1] == pytest.approx(-float(errors(checkpoint, ["salt"] * 3)[0]), abs=1e-5)
    assert reward(checkpoint, floor=-5.0)([bad]) == [-5.0]
    assert reward(checkpoint)([]) == []


def test_the_floor_counts_in_no_statistic(checkpoint: str) -> None:
    bad = rollout("", vectors(TEXTS)[0])
    alone = reward(checkpoint, baseline="batch")(rollouts())
    assert reward(checkpoint, baseline="batch")([bad, *rollouts()])[1:] == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize("text", ["\ud800", "salt " * 3000, "\0", "<|end|><|pad|>", "🐚" * 200, "</text> <summary>"])
def test_hostile_text_scores_and_never_raises(checkpoint: str, text: str) -> None:
    answer = replace(rollout("salt", vectors(TEXTS)[0]), text=text)
    (score,) = reward(checkpoint)([answer])
    assert np.isfinite(score)


def test_a_prompt_without_a_target_or_with_another_width_is_refused(checkpoint: str) -> None:
    with pytest.raises(UserError, match="has no column 'target'"):
        reward(checkpoint)([rollout("salt")])
    with pytest.raises(UserError, match=r"shape \(3,\), and the critic of .* gives vectors 16 wide"):
        reward(checkpoint)([rollout("", [1.0, 2.0, 3.0])])


def test_another_critic_is_read_by_once_it_is_handed_over(checkpoint: str) -> None:
    given = reward(checkpoint)
    given.update_critic(lambda texts: torch.tensor(vectors(TEXTS)), 1)
    assert given(rollouts()) == pytest.approx([0.0] * 3, abs=1e-5)


def test_explanations_of_a_group_are_cut_at_one_share(checkpoint: str) -> None:
    text = "a b c d e f g h"
    given = reward(checkpoint, truncate=2)
    cut = [given.explanations([rollout(text, group=group), rollout(text, group=group)]) for group in range(80)]
    assert all(first == second for first, second in cut)
    lengths = {len(str(first).split()) for first, _ in cut}
    assert lengths == set(range(2, 9))
    assert given.explanations([rollout("a")]) == ["a"]
    given.update_critic(lambda texts: torch.zeros(len(texts), 16), 1)
    assert [given.explanations([rollout(text, group=group)])[0] for group in range(80)] != [one for one, _ in cut]


def test_beginnings_go_from_the_least_to_the_whole() -> None:
    assert beginning("a  b c", 1, 0.0) == "a"
    assert beginning("a  b c", 1, 0.999) == "a b c"
    assert beginning("a  b c", 3, 0.0) == "a  b c"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"transform": "square"}, "there is no 'square'"),
        ({"baseline": "mean"}, "there is no 'mean'"),
        ({"scale": 0.0}, "scale=0.0 must be above 0"),
        ({"steepness": 2.0}, "read by transform=exp"),
        ({"clip": [1.0, -1.0]}, "a lower and a higher number"),
        ({"floor": float("nan")}, "must be a number"),
        ({"truncate": -1}, "must be 0 or more"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ReconstructionSettings(**settings)


def test_it_cannot_be_independent_as_its_critic_changes(checkpoint: str) -> None:
    with pytest.raises(UserError, match="changes with the critic"):
        RewardRunner({"words": reward(checkpoint)}, ScoringSettings(independent=("words",)))


@pytest.mark.slow
def test_it_scores_in_worker_processes_too(checkpoint: str) -> None:
    with RewardRunner({"words": reward(checkpoint)}, ScoringSettings(workers=1, timeout=120)) as runner:
        found = runner.score(rollouts()).values[:, 0]
    assert torch.allclose(found, -errors(checkpoint), atol=1e-5)


# --- golden values ----------------------------------------------------------------------------------------------------

GIVEN = [
    (transform, reduction, norm)
    for transform in ("negative", "exp", "bounded")
    for reduction in ("mean", "sum")
    for norm in (True, False)
]


@pytest.mark.golden
@pytest.mark.parametrize(("transform", "reduction", "norm"), GIVEN)
def test_transforms_are_the_golden_ones(golden: dict[str, Any], transform: Any, reduction: str, norm: bool) -> None:
    given = golden["rewards"]
    expected = given[f"{transform}/{reduction}/norm={norm}/scale2/temp0.5"]
    errors = losses(given["pred"], given["target"]) * (4 if reduction == "sum" else 1)
    assert torch.allclose(errors, expected["mse"], atol=1e-5)
    found = 2 * transformed(errors, transform, 0.5)
    assert torch.allclose(standardised(found) if norm else found, expected["rewards"], atol=1e-5)


@pytest.mark.golden
def test_the_running_baseline_is_the_golden_one(golden: dict[str, Any]) -> None:
    given, baseline = golden["rewards"], RunningBaseline()
    for times, expected in zip((1, 2, 3), given["baseline_subtract_seq_x1_x2_x3"], strict=True):
        rewards = -losses(times * given["pred"], given["target"])
        assert torch.allclose(baseline(rewards), expected, atol=1e-4), times
    assert (baseline.mean, baseline.deviation) == pytest.approx(given["baseline_running"], abs=1e-4)


@pytest.mark.golden
def test_a_batch_of_one_is_worth_nothing_and_not_nan(golden: dict[str, Any]) -> None:
    assert golden["rewards"]["single_sample_default"]["rewards"].isnan().all()
    assert standardised(torch.tensor([3.0])).tolist() == [0.0]


@pytest.mark.golden
def test_group_advantages_are_the_golden_ones(golden: dict[str, Any]) -> None:
    """Of the groups of four: the deviation is a little larger here (1e-4), and a lone completion has no advantage."""
    given = golden["group_adv"]
    sizes = given["group_ids"].bincount().tolist()
    for group, size in enumerate(sizes):
        chosen = given["group_ids"] == group
        rewards, expected = given["rewards"][chosen], given["adv_groupnorm"][chosen]
        found = group_advantages(rewards, size)
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)
        if size > 1:
            assert torch.allclose(group_advantages(rewards, size, "none"), given["adv_center"][chosen], atol=1e-5)
