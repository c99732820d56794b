"""Catalogues: what is found, and what is said of what is not."""

import pytest

from lit_narrative.books.catalogue import Entry, Query, entry_of, parse_catalogue, search
from lit_narrative.books.read import parse_book
from lit_narrative.errors import UserError
from tests.books.mirror import ebook

TABLE = """Text#,Type,Issued,Title,Language,Authors,Subjects,LoCC,Bookshelves
76,Text,2004-06-29,"Adventures of
Huckleberry Finn",en,"Twain, Mark, 1835-1910; Kemble, E. W. (Edward Windsor), 1861-1933 [Illustrator]",Adventure stories; Boys -- Fiction,PS,
74,Text,2004-07-01,"The Adventures of Tom Sawyer, Complete",en,"Twain, Mark, 1835-1910",Boys -- Fiction,PS,
1342,Text,1998-06-01,Pride and Prejudice,en,"Austen, Jane, 1775-1817",Courtship -- Fiction,PR,
99,Sound,1998-06-01,Pride and Prejudice,en,"Austen, Jane, 1775-1817",,PR,
2000,Text,1999-12-01,Don Quijote,es,"Cervantes Saavedra, Miguel de, 1547-1616",Romances,PQ,
500,Text,1999-12-01,Pinocchio,en,"Della Chiesa, Carol [Translator]",,PZ,
"""  # noqa: E501
ENTRIES = parse_catalogue(TABLE, "table")


def test_rows_are_texts_with_their_authors() -> None:
    assert [entry.id for entry in ENTRIES] == ["76", "74", "1342", "2000", "500"]
    assert ENTRIES[0] == Entry(
        "76",
        "Adventures of Huckleberry Finn",
        ("Twain, Mark, 1835-1910",),
        ("Adventure stories", "Boys -- Fiction"),
        "en",
    )
    assert ENTRIES[-1].authors == ("Della Chiesa, Carol",)


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        (Query(authors=["Clemens, Samuel"]), ["76", "74"]),
        (Query(authors=["J. Austen", "Mark Twain"], subjects=["fiction"]), ["76", "74", "1342"]),
        (Query(authors=["Mark Twain"], titles=["tom  sawyer"]), ["74"]),
        (Query(ids=["1342", "76"]), ["76", "1342"]),
        (Query(titles=["quijote"]), []),
        (Query(titles=["quijote"], language=None), ["2000"]),
    ],
)
def test_search(query: Query, ids: list[str]) -> None:
    assert [entry.id for entry in search(ENTRIES, query)] == ids


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (Query(authors=["Marc Twain"]), "did you mean 'Mark Twain'"),
        (Query(authors=["Xenophon"]), "no 'Xenophon'; look for one by --title"),
        (Query(ids=["12"]), "no text 12 among the 5"),
    ],
)
def test_what_is_not_there_is_said(query: Query, message: str) -> None:
    with pytest.raises(UserError, match=message):
        search(ENTRIES, query)


def test_a_table_of_another_kind_is_no_catalogue() -> None:
    with pytest.raises(UserError, match="lacks the column 'Text#'"):
        parse_catalogue("a,b\n1,2\n", "table")


def test_a_header_is_an_entry() -> None:
    book = parse_book(ebook(77, "The Sea", "A. Mariner").decode())
    assert entry_of(book) == Entry("77", "The Sea", ("A. Mariner",), (), "en")
