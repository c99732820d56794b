"""Chunks: whole sentences, paragraphs kept, nothing twice and nothing lost but a short rest."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_narrative.errors import UserError
from lit_narrative.tasks.style.chunks import ChunkWords, chunks_of
from lit_narrative.text import sentences_of

SENTENCES = st.lists(st.integers(1, 12).map(lambda n: " ".join(["Word"] * n) + "."), min_size=1, max_size=6).map(
    " ".join
)


def test_paragraphs_and_sentences_stay_whole() -> None:
    text = "One two three. Four five.\n\nSix seven eight nine.\n\nTen. Eleven twelve thirteen fourteen."
    assert chunks_of(text, ChunkWords(9, 2)) == [
        "One two three. Four five.\n\nSix seven eight nine.",
        "Ten. Eleven twelve thirteen fourteen.",
    ]


def test_a_rest_that_is_too_short_is_left_out_and_a_long_sentence_stays() -> None:
    long = " ".join(["word"] * 12) + "."
    assert chunks_of(f"{long} One two.", ChunkWords(5)) == [long]
    assert chunks_of("", ChunkWords(5)) == []


def test_verse_keeps_its_lines() -> None:
    verse = "The nets are dry,\nThe lamps are lit.\nThe gulls\nare gone."
    assert chunks_of(verse, ChunkWords(30, 1)) == ["The nets are dry,\nThe lamps are lit. The gulls\nare gone."]


@given(st.lists(SENTENCES, min_size=1, max_size=8), st.integers(1, 40))
def test_every_word_is_in_one_chunk_and_none_is_too_long(paragraphs: list[str], most: int) -> None:
    chunks = chunks_of("\n\n".join(paragraphs), ChunkWords(most, 1))
    words = [word for chunk in chunks for word in chunk.split()]
    assert words == "\n\n".join(paragraphs).split()
    assert all(len(chunk.split()) <= most or len(sentences_of(chunk)) == 1 for chunk in chunks)


@pytest.mark.parametrize(("most", "least"), [(0, None), (5, 6), (5, 0)])
def test_wrong_sizes_are_said(most: int, least: int | None) -> None:
    with pytest.raises(UserError, match=r"data\.chunk_words"):
        ChunkWords(most, least)
