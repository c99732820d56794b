"""A shelf: cleaned books in a folder, with a line for each that says whose it is and how it came about.

``<id>.txt`` holds the text, ``books.jsonl`` a row for each book, with the text's digest.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from lit_narrative.books.clean import clean_book
from lit_narrative.books.read import Book, read_books
from lit_narrative.errors import UserError
from lit_narrative.files import decode_json, read_utf8, write_jsonl, write_text

logger = logging.getLogger(__name__)

FILE = "books.jsonl"
LEAST = 1000
"""Characters that a book has at least after cleaning."""
_LEFT = ("project gutenberg", "gutenberg-tm", "gutenberg ebook", "gutenberg etext")


@dataclass(frozen=True)
class Checked:
    """A book that was cleaned and looked at.

    Attributes:
        book: with the cleaned text.
        dropped: reason -> how many blocks were left out.
        fault: why it is not taken; empty where it is.
        notes: what else a person should know, such as a title that the catalogue has otherwise.
    """

    book: Book
    dropped: Mapping[str, int]
    fault: str = ""
    notes: Sequence[str] = field(default_factory=tuple)


def check_book(book: Book, language: str | None = None) -> Checked:
    """A book cleaned and validated.

    Args:
        book: as it was read.
        language: that it must be in, such as ``en``, where its header names one; None: any.
    """
    cleaned = clean_book(book)
    dropped = {reason: len(blocks) for reason, blocks in cleaned.dropped.items()}
    return Checked(replace(book, text=cleaned.text), dropped, _fault(book, cleaned.text, language))


def _fault(book: Book, text: str, language: str | None) -> str:
    """Why a book is not taken."""
    if not book.whole:
        return "it breaks off: its header announces an end that is not there"
    if len(text) < LEAST:
        return f"after cleaning it has {len(text)} characters, fewer than {LEAST}"
    if language is not None and book.language not in ("", language):
        return f"its language is '{book.language}', not '{language}'"
    if left := next((words for words in _LEFT if words in text.casefold()), None):
        return f"after cleaning it still has '{left}': its header or licence is in a form that is not known"
    return ""


def write_shelf(folder: str | Path, books: Iterable[Checked]) -> Path:
    """Write books and ``books.jsonl``; returns the path of the latter."""
    folder, rows = Path(folder), []
    for checked in books:
        book = checked.book
        content = f"{book.text}\n"
        write_text(folder / f"{book.id}.txt", content)
        rows.append(
            {
                "id": book.id,
                "title": book.title,
                "author": book.author,
                "subjects": list(book.subjects),
                "language": book.language,
                "file": f"{book.id}.txt",
                "sha256": sha256(content.encode("utf-8", errors="backslashreplace")).hexdigest(),
                "words": len(book.text.split()),
                "paragraphs": book.text.count("\n\n") + 1,
                "dropped": dict(checked.dropped),
            }
        )
    return write_jsonl(folder / FILE, rows)


def read_shelf(path: str | Path) -> list[Book]:
    """The cleaned books of a shelf; of another folder or a file of texts, which are cleaned as they are read.

    Raises:
        UserError: there is none, a text is not the one that was written, or no book is left.
    """
    folder = Path(path)
    if str(path) and (folder / FILE).is_file():
        rows = enumerate(read_utf8(folder / FILE).split("\n"), 1)
        return [
            _listed(folder, decode_json(line, f"{folder / FILE}, line {number}"), number)
            for number, line in rows
            if line
        ]
    checked = [check_book(book) for book in read_books(path)]
    for one in checked:
        if one.fault:
            logger.warning("'%s' (%s) is left out: %s", one.book.title, one.book.id, one.fault)
    books = [one.book for one in checked if not one.fault]
    if not books:
        raise UserError(f"no book in {path} can be used: {checked[0].fault}; give whole books as plain text")
    return books


def _listed(folder: Path, row: Any, number: int) -> Book:
    """The book of a row.

    Raises:
        UserError: it is no row of a shelf, or the text was changed.
    """
    match row:
        case {
            "id": str(id),
            "title": str(title),
            "author": str(author),
            "subjects": [*subjects],
            "language": str(language),
            "file": str(file),
            "sha256": str(digest),
        } if Path(file).name == file:
            text = read_utf8(folder / file)
        case _:
            raise UserError(f"{folder / FILE}, line {number}: it is no row of a book; make the folder anew")
    if sha256(text.encode("utf-8", errors="backslashreplace")).hexdigest() != digest:
        raise UserError(
            f"{folder / file} is not the text that {FILE} tells of: it was changed, or is damaged; make the folder "
            f"anew, or take {FILE} out to read the texts as they are"
        )
    return Book(id, title, author, tuple(map(str, subjects)), language, text.removesuffix("\n"))
