"""Evaluation of texts in authors' styles, with judges that are counted by hand."""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from lit_narrative.report.intervals import Resamples, figure_names
from lit_narrative.tasks.style.evaluation.copying import Sources, copy_columns, proper_names
from lit_narrative.tasks.style.evaluation.evaluate import StyleAids, StyleTexts, evaluate
from lit_narrative.tasks.style.evaluation.judging import (
    StyleReferences,
    drift_scores,
    hacked,
    likeness_columns,
    topic_swap,
    unit,
    windows,
)
from lit_narrative.tasks.style.evaluation.slop import count_phrases, diversity_scores, log_odds, over_used, slop_scores

MARKS = ("and", "but", "upon", "quite")
CHUNKS = {
    "Long": ["upon the sea and upon the shore", "the gull upon the rock and upon the mast"],
    "Short": ["quite so but no", "but the sea was quite grey but calm"],
}


def judge(texts: Sequence[str]) -> np.ndarray:
    """Counts of a few function words."""
    return np.array([[float(text.lower().split().count(mark)) for mark in MARKS] for text in texts])


@pytest.fixture
def references() -> StyleReferences:
    return StyleReferences(judge, CHUNKS)


def test_likeness_is_the_mean_cosine_with_an_authors_chunks(references: StyleReferences) -> None:
    text = "upon and upon"
    cosines = [unit(judge([text]))[0] @ unit(judge([chunk]))[0] for chunk in CHUNKS["Long"]]
    assert references.likeness([text])[0, 0] == pytest.approx(np.mean(cosines))
    assert references.likeness([text])[0, 1] == pytest.approx(0)
    assert references.other < references.same <= 1


def test_what_has_no_words_or_no_finite_vector_is_like_nobody(references: StyleReferences) -> None:
    assert references.likeness([""]).tolist() == [[0.0, 0.0]]
    broken = StyleReferences(lambda texts: np.full((len(texts), 2), np.nan), CHUNKS)
    assert broken.likeness(["upon"]).tolist() == [[0.0, 0.0]]
    assert references.likeness([]).shape == (0, 2)


def test_scaled_likeness_is_1_for_the_authors_own_chunks_and_0_for_those_of_others(references: StyleReferences) -> None:
    texts = [*CHUNKS["Long"], *CHUNKS["Short"]]
    own = references.columns(["Long"] * 2 + ["Short"] * 2)
    columns = likeness_columns("judge", references, references.likeness(texts), own)
    assert np.mean(columns["judge_scaled"]) >= 1  # each chunk is compared with itself, too
    other = likeness_columns("judge", references, references.likeness(texts), own[::-1])
    assert np.mean(other["judge_scaled"]) == pytest.approx(0, abs=1e-9)
    assert columns["judge_identified"] == [1.0] * 4
    assert other["judge_identified"] == [0.0] * 4
    assert columns["judge_margin"] == [-value for value in other["judge_margin"]]


def test_topic_swap_counts_plots_told_by_the_author_named(references: StyleReferences) -> None:
    texts = ["upon the sea and", "but quite the sea", "upon a gull", "upon a gull", "but a rock", "upon a rock and"]
    own = references.columns(["Long", "Short"] * 3)
    plots = ["sea", "sea", "gull", "gull", "rock", "rock"]
    found = topic_swap("swap", references.likeness(texts), own, plots)
    # The first follows, the second is one text twice, the third is the wrong way round.
    assert found["swap"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert found["swap_n"] == 3
    alone = topic_swap("swap", references.likeness(texts[:2]), own[:2], ["a", "b"])
    assert alone == {"swap": None, "swap_ci": None, "swap_n": 0}


def test_drift_follows_style_by_window(references: StyleReferences) -> None:
    texts = ["upon upon but but", "upon upon"]
    own = references.columns(["Long", "Long"])
    found = drift_scores(Resamples(["a", "b"]), "judge", references, texts, own, 2)
    assert found["judge_window_1"] > found["judge_window_2"]
    assert found["judge_window_2"] == pytest.approx(0)
    assert found["judge_drift"] == pytest.approx(-found["judge_window_1"])
    assert "judge_window_3" not in found


@pytest.mark.parametrize(("words", "lengths"), [(0, [0]), (2, [2]), (4, [4]), (6, [4, 2]), (9, [4, 5])])
def test_windows_hold_every_word_once_and_no_rest_is_short(words: int, lengths: list[int]) -> None:
    text = " ".join(map(str, range(words)))
    assert [len(window.split()) for window in windows(text, 4)] == lengths
    assert " ".join(windows(text, 4)) == text


def test_a_judge_is_fooled_where_it_rises_alone() -> None:
    assert hacked((0.1, 0.2), (-0.1, 0.1))
    assert hacked((0.1, 0.2), (-0.2, -0.1))
    assert not hacked((0.1, 0.2), (0.01, 0.1))
    assert not hacked((-0.1, 0.2), (-0.2, 0.1))


def test_copies_are_found_in_the_source_of_the_author_named() -> None:
    chunks = ["the old lamp went out over the water before anybody came", "he sold the boat in spring"]
    sources = {"One": Sources(chunks), "Two": Sources(["nothing of this is here"])}
    text = "so the old lamp went out over the water and we slept"
    columns = copy_columns([text, text, ""], ["One", "Two", "One"], sources)
    assert columns["copied_words"] == [8.0, 0.0, 0.0]
    copied = ["the", "old", "lamp", "went", "out", "over", "the", "water"]
    assert columns["copied_span"][0] == pytest.approx(sources["One"].bits(copied))
    assert columns["nearest_source"] == [4 / 8, 0.0, 0.0]


def test_names_are_written_with_a_capital_and_never_without() -> None:
    chunk = "Then Ahab stood. The sea took Ahab, and Ahab knew the Sea of old; we saw the Sea, the Sea and the sea."
    found = proper_names([f"{chunk} It was Ahab."])
    assert found == {"Ahab"}
    columns = copy_columns(["We met Ahab.", "We met Ahabs."], ["One", "One"], {"One": Sources([f"{chunk} For Ahab."])})
    assert columns["names_source"] == [1.0, 0.0]


def test_titles_days_and_countries_name_no_source() -> None:
    chunk = "So Mr Darcy came on Monday, and Mrs Bennet spoke of England; but Darcy, whom Mr Bennet knew, left."
    assert proper_names([chunk] * 3) == {"Darcy", "Bennet"}


def test_log_odds_are_positive_for_what_a_model_says_more_often() -> None:
    model, human = count_phrases(["a tapestry of light"] * 40), count_phrases(["a piece of bread"] * 40)
    z = log_odds(model, human)
    assert z["tapestry",] > 3 > abs(z["of",])
    assert ("of",) not in over_used(model, human)
    assert all(math.isfinite(value) for value in log_odds(count_phrases(["so"]), {}).values())


def test_slop_is_nothing_for_human_text_and_much_for_a_phrase_said_again_and_again() -> None:
    rng = np.random.default_rng(0)
    words = np.array([a + b + c for a in "bcdfghklm" for b in "aeiou" for c in "nrs"])
    human = [" ".join(rng.choice(words, 60)) for _ in range(40)]
    fresh = [" ".join(rng.choice(words, 60)) for _ in range(20)]
    documents = [str(row) for row in range(20)]
    low = slop_scores(Resamples(documents), fresh, documents, human)
    assert low["slop"] == pytest.approx(0, abs=0.02)
    stuck = [f"{text} {'a testament to the human spirit ' * 3}" for text in fresh]
    high = slop_scores(Resamples(documents), stuck, documents, human)
    assert high["slop"] > 0.1 > low["slop_ci"][1]
    assert "testament" in {phrase for phrase, _ in high["over_used"]}


def test_diversity_is_of_the_texts_of_one_group() -> None:
    resamples = Resamples(["a", "b", "c"])
    same = diversity_scores(resamples, ["one two three four"] * 3, ["x"] * 3)
    assert same["diversity"] == 0
    split = diversity_scores(resamples, ["one two three four"] * 2 + ["five six seven"], ["x", "y", "y"])
    assert split["diversity"] == 1
    assert diversity_scores(resamples, ["", "", ""], ["x"] * 3)["diversity"] == 0


def test_every_figure_has_an_interval_and_hostile_texts_are_measured(references: StyleReferences) -> None:
    texts = ["upon the sea and", "but quite \ud800", "", "<script>" * 2000, "but so", "quite " * 400]
    plots = ["sea", "sea", "gull", "gull", "rock", "rock"]
    authors = ["Long", "Short"] * 3
    rows = StyleTexts(texts, authors, plots, {"content": [1.0, None, 0.0, 0.0, 0.5, 0.25]})
    sources = {author: Sources(chunks) for author, chunks in CHUNKS.items()}
    aids = StyleAids({"judge_a": references, "judge_b": references}, sources, CHUNKS["Long"], window=50)
    found = evaluate(rows, aids)
    for name in ("judge_a", "judge_b", "topic_swap", "copied_span", "content", "diversity", "slop", "judge_a_drift"):
        low, high = found[f"{name}_ci"]
        assert low <= found[name] <= high, name
    assert found["topic_swap"] == found["topic_swap_judge_b"]
    assert found["topic_swap_n"] == 3
    assert found["content"] == pytest.approx(1.75 / 5)
    assert set(figure_names(found["authors"]["Long"])) >= {"judge_a", "judge_b", "copied_span", "content"}
    assert len(found["rows"]["judge_a"]) == len(found["rows"]["document"]) == 6
    assert np.mean(found["rows"]["judge_a"]) == pytest.approx(found["judge_a"], abs=1e-5)
