"""Measures of texts on cases worked out by hand."""

import math

import pytest

from lit_narrative.errors import UserError
from lit_narrative.tasks.poetry.metrics import majority_topic, topic_shares, whole_lines
from lit_narrative.tasks.poetry.topics import TOPICS
from lit_narrative.text import distinct_n, repetition, self_bleu, words_of
from tests.tasks.poetry.original_metrics import original_distinct_n, original_perplexity


def test_words_are_small_letters_and_whole() -> None:
    assert words_of("The Lamb's fleece, it’s WHITE-ish 99 'tis\nÉté") == [
        "the", "lamb's", "fleece", "it’s", "white", "ish", "tis", "été",
    ]  # fmt: skip


def test_distinct_n_pools_and_ignores_case_and_marks() -> None:
    texts = ["The moon, the moon.", "the MOON"]
    assert distinct_n(texts, 1) == 2 / 6
    assert distinct_n(texts, 2) == 2 / 4
    assert original_distinct_n(texts, 1) == 5 / 6
    assert distinct_n([], 2) == distinct_n(["one"], 2) == 0


def test_distinct_n_at_a_sample_count_is_a_mean_over_groups() -> None:
    texts = ["a b", "a b", "a b", "c d", "e f"]
    assert distinct_n(texts, 2, samples=2) == pytest.approx((1 / 2 + 2 / 2) / 2)
    assert distinct_n(texts * 3, 2, samples=1) == 1
    assert distinct_n(texts * 3, 2) < distinct_n(texts, 2)
    for samples in (6, 0):
        with pytest.raises(UserError, match=f"distinct-2 at {samples} samples .* there are 5"):
            distinct_n(texts, 2, samples=samples)


def test_repetition_is_within_a_text() -> None:
    assert repetition(["a b c", "a b c"]) == 0
    assert repetition(["a b a b a"], n=2) == pytest.approx(1 / 2)
    assert repetition(["a b a b a", "c"], n=2) == pytest.approx(1 / 4)
    assert repetition([]) == 0


def test_self_bleu() -> None:
    same = ["the tide sinks near the old door"] * 3
    apart = ["the tide sinks near the old door", "my lamp is out tonight again alone", "we saw nobody on that hill"]
    assert self_bleu(same) == pytest.approx(1)
    assert self_bleu(apart) < 0.3 < self_bleu([*same, *apart]) < 1
    assert self_bleu([*same, *apart], most=3) == pytest.approx(1)
    assert self_bleu(["The TIDE, sinks near it"] * 2) == pytest.approx(1)
    assert self_bleu(["alone"]) == self_bleu([]) == 0
    assert 0 <= self_bleu(["", "", "a"]) <= 1


def test_topic_shares_are_of_all_words() -> None:
    result = topic_shares(
        ["The tide, the gull!", "snow"], bag=["tide", "Wave"], held_out=["gull"], others=["snow", "ice"]
    )
    assert result == (1 / 5, 1 / 5, 1 / 5)
    assert result.held_out == 1 / 5
    assert topic_shares([], ["tide"]) == (0, 0, 0)
    assert topic_shares(["tidal tides"], ["tide"]) == (0, 0, 0)


def test_the_majority_topic_has_most_words() -> None:
    assert majority_topic("the tide and the gull near the snow", TOPICS) == "ocean"
    assert majority_topic("the tide near the snow", TOPICS) is None
    assert majority_topic("the door", TOPICS) is None


def test_whole_lines_leave_out_a_cut_one() -> None:
    text = "the salty tide sinks again\n\ntide the salty\nour song is"
    assert whole_lines(text) == ["the salty tide sinks again", "tide the salty", "our song is"]
    assert whole_lines(text, finished=False) == ["the salty tide sinks again", "tide the salty"]
    assert whole_lines("") == whole_lines("the salty", finished=False) == []


def test_perplexity_as_it_was() -> None:
    assert original_perplexity([[1.0, 1.0, 1.0], [3.0]]) == pytest.approx(math.exp(2))
    assert math.isnan(original_perplexity([[], [2.0]]))
    assert original_perplexity([None, [2.0]]) == pytest.approx(math.exp(2))
    assert original_perplexity([]) == original_perplexity([None]) == math.inf
