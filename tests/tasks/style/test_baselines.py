"""Measures that are never trained: Delta by hand, function words, and sentence lengths."""

import numpy as np
import pytest

from lit_narrative.tasks.style.baselines import Delta, baselines, function_word_cosine, length_similarity, tokens

TEXTS = ["the cat and the dog", "the dog, the cat", "and so on and on"]


def test_delta_is_the_mean_distance_of_standardised_frequencies() -> None:
    delta = Delta(TEXTS, frequent=2)
    assert delta.words == ["the", "and"]
    table = np.array([[2 / 5, 1 / 5], [2 / 5, 0], [0, 2 / 5]])
    z = (table - table.mean(0)) / table.std(0)
    expected = -np.abs(z[0] - z[1]).mean()
    assert delta([TEXTS[0]], [TEXTS[1]])[0] == pytest.approx(expected)
    assert delta(TEXTS, TEXTS).tolist() == [0, 0, 0]


def test_function_words_alone_count() -> None:
    first, second = "the cat and a dog", "the tower and a bell"
    assert function_word_cosine([first, first], [second, "upon which nobody had been"])[0] == pytest.approx(1.0)
    assert function_word_cosine([first], ["upon which nobody had been"])[0] == pytest.approx(0.0)


def test_words_a_sentence_are_compared_by_ratio() -> None:
    found = length_similarity(["One two. One two!", "A b c d."], ["One two three four.", "A b c d?"])
    assert found.tolist() == pytest.approx([-np.log(2), 0.0])


def test_masked_words_are_counted_by_their_signs() -> None:
    assert tokens("The # © Ø, § µ") == ["the", "#", "©", "ø", ",", "§", "μ"]


@pytest.mark.parametrize("name", ["delta", "function_words", "length"])
def test_texts_of_any_kind_have_a_similarity(name: str) -> None:
    hostile = ["", " ", "\ud83d", "." * 1000, "x" * 10_000]
    found = baselines(TEXTS)[name](hostile, list(reversed(hostile)))
    assert np.isfinite(found).all()
