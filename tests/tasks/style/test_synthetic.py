"""Synthetic authors: they share topics and words, and differ in what style is made of."""

from collections import Counter

import pytest

from lit_narrative.tasks.style.masking import FUNCTION_WORDS
from lit_narrative.tasks.style.synthetic import (
    AUTHORS,
    BOOKS,
    MAIN,
    NAMES,
    SLOTS,
    TOPICS,
    synthetic_book,
    synthetic_books,
    vocabulary_texts,
)
from lit_narrative.text import sentences_of, words_of

CONTENT = {word for topic in TOPICS.values() for words in topic.values() for word in words}


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    return {name: "\n\n".join(synthetic_book(AUTHORS[name], n).text for n in range(3)) for name in MAIN}


def test_authors_share_content_words_and_all_others(texts: dict[str, str]) -> None:
    first, second = (Counter(words_of(text)) for text in texts.values())
    assert set(first) >= CONTENT and set(second) >= CONTENT
    names = {name.casefold() for name in NAMES}
    assert set(second) - names <= set(first) and len(set(first) - names - set(second)) <= 3


def test_they_differ_in_function_words_marks_and_length(texts: dict[str, str]) -> None:
    first, second = texts.values()
    shares = [Counter(words_of(text)) for text in (first, second)]
    assert shares[0]["the"] > 5 * shares[1]["the"] and shares[1]["whilst"] > 5 * shares[0]["whilst"]
    assert second.count(";") > 5 * first.count(";") and first.count("!") > 5 * second.count("!")
    lengths = [
        len(text.split()) / sum(len(sentences_of(part)) for part in text.split("\n\n")) for text in (first, second)
    ]
    assert lengths[1] > 1.8 * lengths[0]


def test_content_words_are_no_function_words() -> None:
    assert CONTENT.isdisjoint(FUNCTION_WORDS)
    slots = ("determiner", "auxiliary", "preposition", "adverb", "pronoun", "conjunction", "opener")
    assert {word for slot in slots for choice in SLOTS[slot] for word in choice.split()} <= FUNCTION_WORDS


def test_a_book_depends_on_its_number_and_the_seed_alone() -> None:
    author = AUTHORS[MAIN[0]]
    assert synthetic_book(author, 1) == synthetic_book(author, 1)
    assert len({synthetic_book(author, n, seed).text for n in range(2) for seed in range(2)}) == 4


def test_titles_and_names_of_an_author_are_of_one_book_each() -> None:
    books = list(synthetic_books(5))
    assert len(books) == BOOKS * len(AUTHORS) == len({(book.author, book.title) for book in books})
    for name in MAIN:
        used = [{word for word in NAMES if word in book.text} for book in books if book.author == name]
        assert all(len(found) == 2 for found in used) and len(set().union(*used)) == 2 * BOOKS


def test_the_vocabulary_has_every_word(texts: dict[str, str]) -> None:
    known = {word for text in vocabulary_texts() for word in text.replace("\n", " ").split()}
    for text in texts.values():
        assert {word.rstrip(",;:.!?…") for part in text.split() for word in part.split("—")} <= known
