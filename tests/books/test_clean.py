"""Cleaning books: what goes, and that no paragraph goes with it."""

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_narrative.books.clean import clean_book
from lit_narrative.books.read import Book, parse_book, read_book
from tests.paths import DATA

BOOKS = Path(os.environ.get("LIT_BOOKS", DATA / "gutenberg"))
real = pytest.mark.skipif(not BOOKS.is_dir(), reason=f"no books at {BOOKS}; set LIT_BOOKS")


def cleaned(text: str, title: str = "The Quay", author: str = "Ann Mariner") -> str:
    return clean_book(Book("1", title, author, (), "en", text)).text


def test_paragraphs_become_lines_and_verse_keeps_its_own() -> None:
    prose = (
        "The boat had come in late, long after the lamps along the quay\n"
        "were lit, and nobody who had waited there since noon had the\nheart to ask.\n"
    )
    verse = "  The nets are dry,\n  The lamps are lit along the quay,\n    The gulls are gone.\n"
    assert cleaned(f"{prose}\n{verse}") == (
        "The boat had come in late, long after the lamps along the quay were lit, and nobody who had waited there "
        "since noon had the heart to ask.\n\nThe nets are dry,\nThe lamps are lit along the quay,\nThe gulls are gone."
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("He saw[12] the _sea_ {3}and *it* =was= blue.", "He saw the sea and it was blue."),
        ("He saw [Footnote 1: or so\nhe said.] the sea.", "He saw the sea."),
        ("[Illustration: The sea [see page 3]]\n\nHe slept.", "He slept."),
        ("“It’s ‘ere,” he said--“an’ no mistake.”", '"It\'s \'ere," he said—"an\' no mistake."'),
        ("Write to me.\n\nhttp://example.org/a_b\n\n17\n\n* * * * *\n\nHe slept.", "Write to me.\n\nHe slept."),
        ("Wait\u00a0for\u200b me.\f\nNow.", "Wait for me.\n\nNow."),
        ("Snake_case and 2*3*4 stay; so does [Groan.]", "Snake_case and 2*3*4 stay; so does [Groan.]"),
        ("He came.\n\n[1] As the first edition\nhas it.\n\nHe slept.", "He came.\n\nHe slept."),
        ("He saw {footnote [a sea\nof it.]} the sea.", "He saw the sea."),
    ],
)
def test_marks_notes_and_addresses_go(text: str, expected: str) -> None:
    assert cleaned(text) == expected


@pytest.mark.parametrize(
    "heading",
    [
        "CHAPTER I.",
        "Chapter 12. The Fox",
        "CHAPTER THE LAST",
        "BOOK II",
        "XIV",
        "IV.",
        "PREFACE",
        "THE END",
        "Letter 4",
    ],
)
def test_headings_on_lines_of_their_own_go(heading: str) -> None:
    assert cleaned(f"One day.\n\n{heading}\n\nA Title Below It\n\nAnother day came.") == "One day.\n\nAnother day came."


@pytest.mark.parametrize(
    "prose",
    [
        "Chapter one of my life was short.",
        "He closed the chapter, and slept.",
        "Part of me, said the judge, agrees.",
        '"I," he said.',
        "Letter I have none!",
        "A LOUD CRY!",
        "Contents under pressure burst.",
    ],
)
def test_prose_that_looks_like_a_heading_stays(prose: str) -> None:
    assert cleaned(f"One day.\n\n{prose}\n\nAnother day came.") == f"One day.\n\n{prose}\n\nAnother day came."


def test_front_matter_and_contents_go() -> None:
    head = "THE QUAY\n\nby\n\nAnn Mariner\n\nLONDON: 1851\n\n"
    contents = "CONTENTS\n\nChapter 1. The Boat--It comes\nlate\n\nChapter 2\n\n"
    text = (
        f"{head}{contents}ILLUSTRATIONS\n\nA Boat\n\nThe Quay?\n\nChapter 1\n\nThe boat came.\n\nChapter 2\n\nIt left."
    )
    book = clean_book(Book("1", "The Quay", "Ann Mariner", (), "en", text))
    assert book.text == "The boat came.\n\nIt left."
    assert set(book.dropped) == {"front matter", "contents", "heading"}
    assert len(book.dropped["contents"]) == 6


def test_a_book_of_nothing_is_empty() -> None:
    assert cleaned("\n\n  \n") == "" and clean_book(Book("1", "", "", (), "", "CHAPTER I\n\n* * *\n")).paragraphs == []


@pytest.mark.parametrize(
    "text", ["[note " * 4000, "_a" * 20000, "\n".join("CHAPTER " * 400), "-" * 50000, "{1" * 30000]
)
def test_hostile_texts_take_no_time(text: str) -> None:
    cleaned(text)


PIECES = st.sampled_from(
    ["CHAPTER I", "Contents", "[Note", "]", "{2}", "_", "*", "--", "\n", "\n\n", "  ", "12", "He went.", "é“"]
)


@given(st.lists(PIECES | st.text(max_size=5), max_size=40).map("".join))
def test_any_text_can_be_cleaned_and_nothing_comes_of_nothing(text: str) -> None:
    found = clean_book(parse_book(text))
    assert letters(found.text) <= letters(text)
    assert all(paragraph.strip() for paragraph in found.paragraphs)


@real
@pytest.mark.parametrize("path", sorted(BOOKS.glob("*.txt")) if BOOKS.is_dir() else [], ids=lambda path: path.stem)
def test_real_books_lose_their_licence_and_no_paragraph(path: Path) -> None:
    book = read_book(path)
    found = clean_book(book)
    assert book.author and book.title and book.whole
    for word in ("gutenberg", "http", "www.", " etext", " ebook", "[illustration"):
        assert word not in found.text.casefold()
    # Every letter is in a paragraph that stays or in a block that was left out for a reason.
    dropped = sum(letters(block) for blocks in found.dropped.values() for block in blocks)
    assert letters(book.text) == letters(found.text) + dropped
    # What is left out is short; only lists of contents have entries of many words.
    short = [block for reason in ("front matter", "heading") for block in found.dropped.get(reason, ())]
    assert max(len(block.split()) for block in short) <= 12
    assert dropped < 0.07 * letters(book.text)


def letters(text: str) -> int:
    return len(re.sub(r"[\W_]+", "", text))
