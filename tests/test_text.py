"""Spans of words that texts have in common."""

import numpy as np
import pytest

from lit_narrative.text import CopyIndex, WordBits, longest_copy


@pytest.mark.parametrize("seed", range(5))
def test_an_index_of_texts_finds_the_span_that_is_worth_most_in_any_of_them(seed: int) -> None:
    rng = np.random.default_rng(seed)
    vocabulary = np.array(["the", "sea", "of", "lantern", "grey", "gull"])
    sources = [" ".join(rng.choice(vocabulary, size=40)) for _ in range(4)]
    bits = WordBits(sources)
    index = CopyIndex(sources)
    for length in (0, 1, 7, 30):
        text = " ".join(rng.choice(vocabulary, size=length))
        best = max((longest_copy(text, source, bits) for source in sources), key=bits)
        assert bits(index.longest(text, bits)) == pytest.approx(bits(best))


def test_no_span_goes_on_from_one_text_to_the_next() -> None:
    sources = ["a grey gull", "over the sea"]
    assert CopyIndex(sources).longest("a grey gull over the sea", WordBits(sources)) in [
        ("a", "grey", "gull"),
        ("over", "the", "sea"),
    ]


def test_a_word_that_no_text_has_is_no_copy() -> None:
    assert CopyIndex([]).longest("a grey gull", WordBits([])) == ()
    assert CopyIndex(["the sea"]).longest("Gulls! \ud800", WordBits(["the sea"])) == ()
