"""What critics make of texts: references, prefixes, paraphrases, and texts that cannot be read."""

from collections.abc import Sequence

import numpy as np
import pytest

from lit_narrative.tasks.verbalize.evaluation.readings import (
    Pool,
    paraphrase_scores,
    prefix_scores,
    read,
    reference_scores,
    score_texts,
)
from tests.tasks.verbalize.evaluation.world import VECTORS, WIDTH, WORDS, fidelity, reconstruct, sentences


def test_a_text_is_read_once_and_no_answer_is_nan() -> None:
    seen: list[str] = []

    def critic(texts: Sequence[str]) -> np.ndarray:
        seen.extend(texts)
        return reconstruct(texts)

    made = read(critic, ["worda", None, "worda", " ", "wordb"], WIDTH)
    assert seen == ["worda", "wordb"]
    assert np.isnan(made[[1, 3]]).all() and (made[0] == made[2]).all()
    assert made[4] == pytest.approx(VECTORS["wordb"])


def test_a_critic_that_breaks_down_gives_no_answer() -> None:
    assert np.isnan(read(lambda texts: np.full((len(texts), WIDTH), np.inf), ["a"], WIDTH)).all()


def test_no_explanation_at_all_is_scored_without_the_critic() -> None:
    def critic(texts: Sequence[str]) -> np.ndarray:
        raise AssertionError("nothing is to be read")

    assert score_texts(fidelity(sentences(20)), critic, "fve", [None] * 20)["fve"] < -0.5


def test_references_stand_in_their_order() -> None:
    texts, others = sentences(60), sentences(300, seed=2)
    scores = reference_scores(
        fidelity(texts), {"": reconstruct, "_frozen": reconstruct}, texts, Pool(reconstruct(others), others)
    )
    assert scores["teacher"] == pytest.approx(1)
    assert scores["floor_constant"] < scores["nearest_neighbour"] < scores["teacher"]
    assert scores["nearest_neighbour_frozen"] == scores["nearest_neighbour"] == pytest.approx(scores["nearest_copy"])
    assert all(f"{name}_ci" in scores for name in ("floor_constant", "teacher_frozen", "nearest_copy"))


def test_nearest_neighbour_of_directions_is_by_direction() -> None:
    texts = sentences(20)
    near = Pool(np.concatenate([100 * reconstruct(texts), reconstruct(sentences(20, seed=5))]), texts * 2)
    assert near.nearest(fidelity(texts)).tolist() == [texts.index(text) for text in texts]


def test_without_teacher_and_pool_the_floor_is_left() -> None:
    assert set(reference_scores(fidelity(sentences(20)), {"": reconstruct}, None, None)) == {
        "floor_constant",
        "floor_constant_ci",
    }


def test_prefix_curve_rises_to_the_whole_explanation() -> None:
    texts = sentences(60, words=4)
    scores = prefix_scores(fidelity(texts), reconstruct, texts)
    values = [scores[f"fve_first_{count}"] for count in (1, 2, 4)]
    assert values == sorted(values) and values[-1] == pytest.approx(1)
    assert not any("_first_8" in name for name in scores)


def test_paraphrases_tell_a_private_code_from_words() -> None:
    texts = sentences(60)
    same = paraphrase_scores(fidelity(texts), {"": reconstruct}, texts, lambda text: " ".join(text.split()[::-1]))
    code = paraphrase_scores(fidelity(texts), {"": reconstruct}, texts, str.upper)
    assert same["fve_paraphrase"] == pytest.approx(1)
    assert code["fve_paraphrase"] < 0
    assert "worda" in WORDS
