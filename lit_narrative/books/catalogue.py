"""Catalogues of books: a table in the form of Project Gutenberg's, or the headers of the texts in a folder."""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from lit_narrative.books.authors import author_name, same_author
from lit_narrative.books.read import Book
from lit_narrative.errors import UserError

COLUMNS = ("Text#", "Type", "Title", "Language", "Authors", "Subjects")
"""Columns of ``pg_catalog.csv`` that are read."""
_ROLE = re.compile(r"\[[^\]]*\]")


@dataclass(frozen=True, slots=True)
class Entry:
    """A book in a catalogue.

    Attributes:
        id: its number.
        title: in one line.
        authors: as the catalogue spells them, without translators and illustrators.
        subjects: its headings.
        language: such as ``en``; empty where it is not known.
    """

    id: str
    title: str
    authors: tuple[str, ...]
    subjects: tuple[str, ...] = ()
    language: str = ""


@dataclass(frozen=True)
class Query:
    """What to look for; a book must fit every part that is given.

    Args:
        authors: any of them, in any spelling.
        ids: any of them.
        titles: words that a title has, all in order and in any case; any of several.
        subjects: words that a subject has; any of several.
        language: of the books, where the catalogue says it; None: any.
    """

    authors: Sequence[str] = ()
    ids: Sequence[str] = ()
    titles: Sequence[str] = ()
    subjects: Sequence[str] = ()
    language: str | None = "en"


def parse_catalogue(text: str, where: str) -> list[Entry]:
    """The texts of a table in the form of ``pg_catalog.csv``.

    Args:
        text: of the table.
        where: it stands, for messages.

    Raises:
        UserError: it is no such table.
    """
    rows = csv.DictReader(io.StringIO(text))
    if missing := [name for name in COLUMNS if name not in (rows.fieldnames or ())]:
        raise UserError(f"{where} is no catalogue: it lacks the column '{missing[0]}' (known: {', '.join(COLUMNS)})")
    try:
        return [_entry(row) for row in rows if row["Type"] == "Text" and (row["Text#"] or "").isdecimal()]
    except csv.Error as error:
        raise UserError(f"{where} cannot be read as a table ({error}); it may be damaged") from error


def _entry(row: dict[str, str | None]) -> Entry:
    cells = {name: " ".join((row[name] or "").split()) for name in COLUMNS}
    people = [name.strip() for name in cells["Authors"].split(";") if name.strip()]
    # Translators and illustrators have their role in brackets; a book without any other has them as its authors.
    authors = [name for name in people if not _ROLE.search(name)] or [_ROLE.sub("", name).strip() for name in people]
    subjects = tuple(subject.strip() for subject in cells["Subjects"].split(";") if subject.strip())
    return Entry(cells["Text#"], cells["Title"], tuple(authors), subjects, cells["Language"].split(";")[0].strip())


def entry_of(book: Book) -> Entry:
    """The entry of a book by its header."""
    return Entry(book.id, book.title, (book.author,) if book.author else (), book.subjects, book.language)


def search(entries: Iterable[Entry], query: Query) -> list[Entry]:
    """The entries that fit a query, in their order, each number once.

    Raises:
        UserError: an author or a number is not in the catalogue; the message suggests near names.
    """
    known = {entry.id: entry for entry in entries}
    for number in query.ids:
        if number not in known:
            raise UserError(
                f"--ids: there is no text {number} among the {len(known)} of the catalogue; check the number"
            )
    for name in query.authors:
        _check_author(name, known.values())
    return [entry for entry in known.values() if _fits(entry, query)]


def _fits(entry: Entry, query: Query) -> bool:
    if query.ids and entry.id not in query.ids:
        return False
    if query.authors and not any(same_author(one, other) for one in entry.authors for other in query.authors):
        return False
    if query.titles and not any(_has(entry.title, words) for words in query.titles):
        return False
    if query.subjects and not any(_has(subject, words) for subject in entry.subjects for words in query.subjects):
        return False
    return query.language is None or entry.language in ("", query.language)


def _has(text: str, words: str) -> bool:
    return " ".join(words.casefold().split()) in text.casefold()


def _check_author(name: str, entries: Iterable[Entry]) -> None:
    names = {author for entry in entries for author in entry.authors}
    if any(same_author(name, other) for other in names):
        return
    near = get_close_matches(author_name(name), sorted(set(map(author_name, names))), n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "; look for one by --title"
    raise UserError(f"--author: the catalogue has no '{name}'{hint}")
