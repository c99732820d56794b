"""The seventh component: its terms, its purity, and texts of any kind."""

import copy
import json
import random
from typing import Any

import numpy as np
import pytest
import torch

from lit_narrative.errors import UserError
from lit_narrative.rl.rewards.base import Reward
from lit_narrative.sae.quality import FeatureQualitySettings, Quality, band_score, explained
from lit_narrative.tasks.storyworld.feature_quality import FeatureQuality
from lit_narrative.tasks.storyworld.formats.parse import Limits
from lit_narrative.tasks.storyworld.formats.simple import read_world
from lit_narrative.tasks.storyworld.generator import Skew, corpus
from lit_narrative.tasks.storyworld.simulator.play import plays
from lit_narrative.tasks.storyworld.states import StateLayout
from lit_narrative.tasks.storyworld.verifiers.base import VerifierConfig
from lit_narrative.views import Rollout


def parts(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A perfect dictionary: what lies above and what lies below the mean, component by component."""
    return np.concatenate([np.maximum(x, 0), np.maximum(-x, 0)], axis=1), x


def mute(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """No feature, no reconstruction."""
    return np.zeros((len(x), 5), dtype=np.float32), np.zeros_like(x)


def layout() -> StateLayout:
    worlds = [read_world(json.loads(row.completion))[0] for row in corpus(40, 9)]
    return StateLayout.fit((world, list(plays(world, 3, np.random.default_rng(0)))) for world in worlds if world)


def rollout(text: str) -> Rollout:
    return Rollout(torch.zeros(1).long(), torch.zeros(1).long(), torch.zeros(1), True, text)


def with_sae(seed: int = 0, verifiers: VerifierConfig | None = None, **settings: Any) -> FeatureQuality:
    reward = FeatureQuality(FeatureQualitySettings(**settings), seed, verifiers or VerifierConfig())
    reward.update_encoder(parts, layout(), 0)
    return reward


def option(name: str, change: float, to: str | None, gates: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    effects = [{"variable": "oil", "change": change}]
    reactions = [{"after_effects": effects, "next_encounter": to}]
    return {"id": name, "text": name, "gates": gates or [], "reactions": reactions}


def tower(gates: list[dict[str, Any]] | None) -> str:
    """Two choices fill or spend the oil; in the second room an option has the gates."""
    rooms = [
        {"id": "door", "text": "A door.", "options": [option("fill", 1, "room"), option("spend", -1, "room")]},
        {"id": "room", "text": "A room.", "options": [option("wait", 0, None), option("light", -1, None, gates)]},
    ]
    return json.dumps(
        {
            "characters": {"Ada": {}, "Bo": {}},
            "initial_state": {"oil": 2},
            "properties": {"oil": {"min": 0, "max": 4}},
            "encounters": rooms,
        }
    )


def gate(value: float) -> list[dict[str, Any]]:
    return [{"variable": "oil", "comparison": ">=", "value": value}]


def test_it_is_a_reward_that_scores_nothing_before_the_first_update() -> None:
    reward = FeatureQuality()
    assert isinstance(reward, Reward)
    assert reward.name == "feature_quality"
    assert reward([rollout(tower(None))] * 2) == [None, None]
    with pytest.raises(RuntimeError, match="call update_encoder first"):
        reward.qualities([rollout(tower(None))])


def test_a_gate_that_choices_decide_is_read_and_others_are_not() -> None:
    live, none, always, never = with_sae().qualities(
        [rollout(tower(gate(2))), rollout(tower(None)), rollout(tower(gate(0))), rollout(tower(gate(9)))]
    )
    assert live.affordances > 0.1
    assert (none.affordances, always.affordances, never.affordances) == (0, 0, 0)


def test_features_that_know_nothing_of_the_gate_earn_nothing_for_it() -> None:
    reward = FeatureQuality()
    reward.update_encoder(mute, layout(), 0)
    assert reward.qualities([rollout(tower(gate(2)))]) == [Quality(0, 0, 0)]

    def coin(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.random.default_rng(0).random((len(x), 40)).astype(np.float32), x

    reward.update_encoder(coin, layout(), 1)
    assert (
        reward.qualities([rollout(tower(gate(2)))])[0].affordances
        < with_sae().qualities([rollout(tower(gate(2)))])[0].affordances
    )


def test_the_score_is_the_weighted_mean_of_the_terms() -> None:
    (quality,) = with_sae().qualities([rollout(tower(gate(2)))])
    assert quality.explained_variance == 1
    assert Quality(0.5, 1.0, 0.25).total((0.2, 0.4, 0.4)) == pytest.approx(0.6)
    assert with_sae(weights=(0, 0, 1))([rollout(tower(gate(2)))]) == [quality.affordances]
    assert with_sae(weights=(0, 5, 0))([rollout(tower(gate(2)))]) == [1]


def test_the_band_is_what_earns_full_sparsity() -> None:
    (usual,), (all_active,) = (
        with_sae(**band).qualities([rollout(tower(gate(2)))]) for band in ({}, {"band": (0.98, 1.0)})
    )
    assert 0 < usual.sparsity < 1
    assert all_active.sparsity != usual.sparsity


def test_limits_say_how_the_text_is_read() -> None:
    fenced = f"```json\n{tower(gate(2))}\n```"
    assert with_sae().qualities([rollout(fenced)]) == [Quality()]
    (quality,) = with_sae(verifiers=VerifierConfig(limits=Limits(strip_code_fence=True))).qualities([rollout(fenced)])
    assert quality.explained_variance == 1


def test_a_score_depends_on_text_seed_and_sae_alone() -> None:
    texts = [row.completion for row in corpus(6, 1, Skew(gates=1))]
    together = with_sae()([rollout(text) for text in texts])
    alone = [with_sae()([rollout(text)])[0] for text in reversed(texts)]
    assert together == alone[::-1]
    assert together != with_sae(seed=1)([rollout(text) for text in texts])
    reward = with_sae()
    reward.update_encoder(mute, layout(), 7)
    assert reward.version == 7
    assert reward([rollout(texts[0])]) != together[:1]


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", "{", '"\ud800"', "[" * 5000, '{"encounters":[]}', "9" * 5000])
def test_text_that_cannot_be_played_earns_nothing_and_never_raises(text: str) -> None:
    assert with_sae()([rollout(text), rollout(tower(None))])[0] == 0
    assert with_sae()([rollout(text)]) == [0]


def test_mutated_worlds_never_raise_and_score_within_bounds() -> None:
    rng, reward = random.Random(0), with_sae()
    junk: list[Any] = [None, True, -1e300, 10**400, "x", [], {}, [[]], {"id": 3}, "\ud800"]

    def mutate(value: Any) -> Any:
        if rng.random() < 0.04:
            return copy.deepcopy(rng.choice(junk))
        if isinstance(value, dict):
            return {key: mutate(item) for key, item in value.items()}
        return [mutate(item) for item in value] if isinstance(value, list) else value

    texts = [json.dumps(mutate(json.loads(row.completion))) for row in corpus(300, 2, Skew(gates=1))]
    scores = reward([rollout(text) for text in texts])
    assert all(score is not None and 0 <= score <= 1 for score in scores)
    assert len(set(scores)) > 30


@pytest.mark.parametrize(
    ("share", "expected"), [(0, 0), (0.01, 0.5), (0.02, 1), (0.1, 1), (0.2, 1), (0.6, 0.5), (1, 0)]
)
def test_sparsity_is_full_within_the_band_and_falls_outside(share: float, expected: float) -> None:
    assert band_score(share, (0.02, 0.2)) == pytest.approx(expected)


def test_a_band_from_zero_accepts_silence() -> None:
    assert band_score(0, (0.0, 0.1)) == 1


def test_explained_variance_is_about_the_data_sets_mean_and_clipped() -> None:
    x = np.full((3, 2), 2.0)
    assert explained(x, x) == 1
    assert explained(x, x - 1) == pytest.approx(0.75)
    assert explained(x, 3 * x) == 0
    assert explained(np.zeros((1, 2)), np.zeros((1, 2))) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"runs": 1},
        {"band": (0.3, 0.2)},
        {"band": (-0.1, 0.2)},
        {"weights": (0, 0, 0)},
        {"weights": (1, -1, 1)},
        {"weights": (1, float("nan"), 1)},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="feature_quality needs"):
        FeatureQualitySettings(**wrong)
