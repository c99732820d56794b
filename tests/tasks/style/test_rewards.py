"""Rewards of style: published scalings, targets by hand, copies, names, diversity, and hostile texts."""

from typing import Any

import numpy as np
import pytest
import torch

from lit_narrative.errors import UserError
from lit_narrative.tasks.style.evaluation.copying import Sources
from lit_narrative.tasks.style.rewards import (
    Centroids,
    CopyReward,
    DiversityReward,
    NameReward,
    StyleReward,
    StyleRewardSettings,
    scaled,
    spread,
)
from lit_narrative.views import Rollout

HOSTILE = ["", " \n", "\ud83d", "\x00" * 50, "the " * 2000, "}{ {plot} %s"]
CHUNKS = {
    "Ada Verity": ["the boat and the sea and Osric went", "the tide and the gull and Osric came"],
    "Basil Gray": ["upon that hill whilst Hilda slept", "upon that moor whilst Hilda woke"],
}


def rollout(text: str, group: int = 0, **columns: Any) -> Rollout:
    ids = torch.tensor([1, 2])
    given = {"author": "Ada Verity", "title": "The Boat", "sample": CHUNKS["Ada Verity"][0], **columns}
    return Rollout(ids, ids, torch.zeros(2), True, text, "prompt", given, group)


def by_words(texts: Any) -> Any:
    """A judge by four words."""
    rows = np.array([[text.split().count(word) for word in ("the", "and", "upon", "whilst")] for text in texts], float)
    rows = rows.reshape(-1, 4)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms == 0, 1, norms)


def test_the_published_sigmoid() -> None:
    settings = StyleRewardSettings(preset="v1").resolved
    found = scaled(np.array([0.2, 0.3745, 0.5, 0.701, -1.0, 1.0]), settings)
    np.testing.assert_allclose(found, [0.1675, 0.5, 0.7601, 0.95, 0.05, 0.95], atol=5e-5)


def test_the_other_scalings() -> None:
    cosines = np.array([-0.5, 0.1, 0.3, 0.9])
    assert scaled(cosines, StyleRewardSettings(preset="v2").resolved).tolist() == cosines.tolist()
    linear = StyleRewardSettings(scaling="linear", low=0.1, high=0.5)
    np.testing.assert_allclose(scaled(cosines, linear), [0, 0, 0.5, 1])
    clipped = StyleRewardSettings(scaling="raw", clip=(0.0, 0.5))
    np.testing.assert_allclose(scaled(cosines, clipped), [0, 0.1, 0.3, 0.5])


def test_targets_are_samples_centroids_and_contrasts() -> None:
    text = "the sea and upon"
    own = by_words([text])[0]
    means = {author: by_words(texts).mean(0) for author, texts in CHUNKS.items()}
    ada, basil = (mean / np.linalg.norm(mean) for mean in means.values())
    expected = {"sample": own @ by_words(CHUNKS["Ada Verity"][:1])[0], "centroid": own @ ada}
    expected["contrastive"] = own @ ada - own @ basil
    for mode, value in expected.items():
        settings = StyleRewardSettings(mode, "raw")  # type: ignore[arg-type]
        assert StyleReward(by_words, settings, CHUNKS, {})([rollout(text)]) == pytest.approx([value])


def test_centroids_calibrate_the_linear_scaling() -> None:
    low, high = Centroids(by_words, CHUNKS, contrastive=False).calibration()
    assert (low, high) == pytest.approx((0.0, 1.0))
    assert Centroids(by_words, CHUNKS, contrastive=True).calibration() == pytest.approx((-1.0, 1.0))
    reward = StyleReward(by_words, StyleRewardSettings(), CHUNKS, {})
    assert reward([rollout("the gull and the fox and"), rollout("upon whilst")]) == pytest.approx([1.0, 0.0])
    by_pairs = StyleReward(by_words, StyleRewardSettings("sample"), CHUNKS, {"cross_q25": 0.2, "same_q75": 0.6})
    assert (by_pairs.settings.low, by_pairs.settings.high) == (0.2, 0.6)
    with pytest.raises(UserError, match="not calibrated"):
        StyleReward(by_words, StyleRewardSettings("sample"), CHUNKS, {})
    with pytest.raises(UserError, match="two authors"):
        StyleReward(by_words, StyleRewardSettings("contrastive"), {"Ada Verity": ["the"]}, {})


@pytest.mark.parametrize("mode", ["sample", "centroid", "contrastive"])
def test_an_empty_text_is_worth_nothing_and_no_text_raises(mode: Any) -> None:
    sources = {author: Sources(texts) for author, texts in CHUNKS.items()}
    style = StyleReward(by_words, StyleRewardSettings(mode, "sigmoid", clip=(0.05, 0.95)), CHUNKS, {})
    rollouts = [rollout(text) for text in HOSTILE]
    for reward in (style, CopyReward(sources), NameReward(sources), DiversityReward(style)):
        found = reward(rollouts)
        assert np.isfinite(found).all()
        assert found[:2] == [0, 0]
        assert reward([]) == []


def test_targets_are_read_once() -> None:
    asked: list[str] = []

    def counting(texts: Any) -> Any:
        asked.extend(texts)
        return by_words(texts)

    reward = StyleReward(counting, StyleRewardSettings(), CHUNKS, {})
    before = len(asked)
    for _ in range(3):
        reward([rollout("the"), rollout("and")])
    assert before == 4
    assert len(asked) == before + 6


def test_copies_are_worth_their_bits() -> None:
    sources = {author: Sources(texts) for author, texts in CHUNKS.items()}
    none, some, all_of_it = CopyReward(sources)(
        [rollout("zzz"), rollout("now the tide turned"), rollout(CHUNKS["Ada Verity"][1])]
    )
    assert none == 0
    assert all_of_it < some < 0
    assert CopyReward(sources)([rollout(CHUNKS["Basil Gray"][0])])[0] > all_of_it


def test_names_of_the_source_are_told() -> None:
    texts = [f"{name} went, and {name} came" for name in ["Osric"] * 3]
    reward = NameReward({"Ada Verity": Sources(texts)})
    written = ["The sea was calm.", "Here ADA verity sat.", "It was in the Boat.", "Then Osric went.", "osric"]
    assert reward([rollout(text) for text in written]) == [0, -1, -1, -1, 0]


def test_what_differs_and_is_good_is_diverse() -> None:
    texts = ["captain sails boat", "captain sails boat", "teacher reads letter", "miller"]
    group = [rollout(text, group=number == 3) for number, text in enumerate(texts)]
    assert DiversityReward(lambda given: [1.0] * len(given))(group) == pytest.approx([0.5, 0.5, 1.0, 0.0])
    assert DiversityReward(lambda given: [0.2, 5.0, -1.0, 1.0])(group) == pytest.approx([0.1, 0.5, 0.0, 0.0])


def test_some_texts_are_spread_over_all() -> None:
    assert spread(list("abcdefgh"), 4) == ["a", "c", "e", "g"]
    assert spread(list("ab"), 4) == ["a", "b"]


def test_settings_that_mean_nothing_are_refused() -> None:
    for given in (
        {"mode": "samples"},
        {"scaling": "log"},
        {"chunks": 0},
        {"preset": "v1", "mode": "sample"},
        {"slope": 0.0},
        {"low": 0.5, "high": 0.2},
        {"clip": (1.0, 0.0)},
    ):
        with pytest.raises(UserError, match=r"data\.style"):
            StyleRewardSettings(**given)  # type: ignore[arg-type]
    assert StyleRewardSettings(preset="v1", accept_unfit=True).resolved.scaling == "sigmoid"
