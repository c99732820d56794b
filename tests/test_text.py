"""Sentences of a paragraph, and spans of words that texts have in common."""

import numpy as np
import pytest

from lit_narrative.text import CopyIndex, WordBits, longest_copy, sentences_of


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


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("It ended. He slept.", ["It ended.", "He slept."]),
        ('"Stop!" he cried. "No."', ['"Stop!" he cried.', '"No."']),
        ("Mr. Holm met J. Holm and Dr. St. John. They ate.", ["Mr. Holm met J. Holm and Dr. St. John.", "They ate."]),
        ("A pie of 3.5 inches. No.", ["A pie of 3.5 inches.", "No."]),
        ("It was I. And so... it ended… Then: why?", ["It was I.", "And so... it ended…", "Then: why?"]),
        ("He had 5. She had none. “Oh!” she said.", ["He had 5.", "She had none.", "“Oh!” she said."]),
        ("Écoute. Élan vital.", ["Écoute.", "Élan vital."]),
        ("A line\nof verse. Another\none", ["A line\nof verse.", "Another\none"]),
        ("  \n ", []),
    ],
)
def test_sentences_of_a_paragraph(text: str, sentences: list[str]) -> None:
    assert sentences_of(text) == sentences
