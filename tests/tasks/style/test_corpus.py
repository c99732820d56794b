"""A corpus of style: splits that share nothing, spellings brought together, editions and authors left out."""

import logging
from collections import Counter

import pytest

from lit_narrative.books.read import Book
from lit_narrative.errors import UserError
from lit_narrative.tasks.style.chunks import ChunkWords
from lit_narrative.tasks.style.corpus import StyleCorpus, long_sentences, split_authors

WORDS = ChunkWords(30)
ONCE = "This long sentence of more than twenty words stands in two books of the same author, " * 2 + "as no other does."


def book(author: str, title: str, sentences: int = 60, **other: object) -> Book:
    text = "\n\n".join(
        f"In {title} this is sentence {n} of {author}, which has twelve words." for n in range(sentences)
    )
    return Book(
        **{"id": title, "title": title, "author": author, "subjects": (), "language": "en", "text": text} | other
    )


def shelf(**books: int) -> list[Book]:
    return [book(f"Ann {name}", f"{name} {n}") for name, count in books.items() for n in range(count)]


def test_whole_books_are_held_out_of_an_author_with_many() -> None:
    corpus = StyleCorpus(shelf(Many=6), WORDS)
    titles = {split: {chunk.title for chunk in corpus.of(split)} for split in ("train", "val", "test")}
    assert [len(found) for found in titles.values()] == [4, 1, 1]
    assert Counter(chunk.part for chunk in corpus.of("train")).keys() == {0, 1}
    parts = {part: {chunk.title for chunk in corpus.of("train") if chunk.part == part} for part in (0, 1)}
    assert parts[0].isdisjoint(parts[1])


def test_the_end_of_the_only_book_is_held_out_behind_a_gap() -> None:
    corpus = StyleCorpus(shelf(One=1), WORDS)
    numbers = {split: [chunk.number for chunk in corpus.of(split)] for split in ("train", "val", "test")}
    assert max(numbers["train"]) + 1 < min(numbers["val"]) and max(numbers["val"]) + 1 < min(numbers["test"])
    assert len(numbers["val"]) >= 2 and len(numbers["train"]) > 20


def test_two_spellings_are_one_author() -> None:
    books = [book("Mariner, Ann, 1801-1870", "Sea"), book("A. Mariner", "Land"), book("Bob Farmer", "Mud")]
    corpus = StyleCorpus(books, WORDS)
    assert corpus.authors == ("Ann Mariner", "Bob Farmer")
    assert {chunk.title for chunk in corpus.chunks if chunk.author == "Ann Mariner"} == {"Sea", "Land"}
    assert corpus.find_author("Mariner, A.") == "Ann Mariner"


def test_what_cannot_be_used_is_named(caplog: pytest.LogCaptureFixture) -> None:
    again = book("Ann Sea", "Sea 0", id="99")
    with caplog.at_level(logging.WARNING):
        corpus = StyleCorpus([*shelf(Sea=1), again, book("Bob Short", "Note", 5), book("", "Nameless")], WORDS)
    assert corpus.authors == ("Ann Sea",)
    assert "'Sea 0' (Sea 0) is left out: it is 'Sea 0' again" in caplog.text
    assert "fewer than 10 chunks of 15 to 30 words: Bob Short" in caplog.text
    assert "author is not known: Nameless" in caplog.text
    assert "authors with one book, whose end is held out; two texts of theirs are of that book: Ann Sea" in caplog.text
    with pytest.raises(UserError, match="no author has 10 chunks of 15 to 30 words"):
        StyleCorpus([book("Bob Short", "Note", 5)], WORDS)


def test_a_passage_that_two_books_share_is_in_no_two_splits() -> None:
    books = [book("Ann Sea", f"Sea {n}") for n in range(6)]
    books = [Book(b.id, b.title, b.author, (), "en", f"{b.text}\n\n{ONCE}") for b in books]
    corpus = StyleCorpus(books, ChunkWords(60))
    held = {
        sentence for split in ("val", "test") for chunk in corpus.of(split) for sentence in long_sentences(chunk.text)
    }
    trained = {sentence for chunk in corpus.of("train") for sentence in long_sentences(chunk.text)}
    assert held and held.isdisjoint(trained)


def test_subjects_are_shared_ones_or_the_form() -> None:
    verse = "\n\n".join(f"The night {n} is dark,\nThe sea is still and wide,\nThe boat is gone." for n in range(60))
    books = [
        book("Ann Sea", "Sea", subjects=("Boats", "Sea stories")),
        book("Bob Land", "Land", subjects=("Sea stories",)),
        book("Cy Rhyme", "Rhymes", text=verse),
        book("Di Prose", "Prose"),
    ]
    corpus = StyleCorpus(books, WORDS)
    subjects = {chunk.author: chunk.subject for chunk in corpus.chunks}
    assert subjects == {"Ann Sea": "Sea stories", "Bob Land": "Sea stories", "Cy Rhyme": "verse", "Di Prose": "prose"}


@pytest.mark.parametrize(
    ("count", "known", "splits"),
    [
        (16, 2, {"train": 10, "val": 3, "test": 3}),
        (8, 1, {"train": 4, "val": 2, "test": 2}),
        (5, 0, {"train": 3, "test": 2}),
    ],
)
def test_authors_are_dealt_to_splits(count: int, known: int, splits: dict[str, int]) -> None:
    corpus = StyleCorpus([book(f"Ann {chr(65 + n)}x", f"T{n}") for n in range(count)], WORDS)
    dealt = split_authors(corpus, corpus.authors[:known])
    assert Counter(dealt.values()) == splits
    assert {dealt[author] for author in corpus.authors[:known]} <= {"train"}


def test_too_few_authors_to_hold_out() -> None:
    corpus = StyleCorpus(shelf(A=1, B=1, C=1), WORDS)
    with pytest.raises(UserError, match=r"needs four authors of one subject or form.*set data\.split_by=book"):
        split_authors(corpus, ())
    assert split_authors(corpus, (), [corpus.authors[0]])[corpus.authors[0]] == "test"


def test_the_order_of_books_decides_nothing() -> None:
    books = shelf(A=6, B=2)
    assert StyleCorpus(books, WORDS).chunks == StyleCorpus(reversed(books), WORDS).chunks
    assert StyleCorpus(books, WORDS, 1).chunks != StyleCorpus(books, WORDS).chunks
