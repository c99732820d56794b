"""Shelves: cleaned books with their digests, and folders of texts as they are."""

import json
import logging
from pathlib import Path

import pytest

from lit_narrative.books.read import Book
from lit_narrative.books.shelf import FILE, check_book, read_shelf, write_shelf
from lit_narrative.errors import UserError

TEXT = "CHAPTER I\n\n" + "\n\n".join(f"It was night number {n}, and the captain slept in the boat." for n in range(30))


def book(text: str = TEXT, **other: object) -> Book:
    return Book(
        **{"id": "7", "title": "T", "author": "A", "subjects": ("Sea",), "language": "en", "text": text} | other
    )


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    checked = check_book(book())
    assert not checked.fault and checked.dropped == {"heading": 1}
    write_shelf(tmp_path, [checked])
    assert read_shelf(tmp_path) == [checked.book]
    row = json.loads((tmp_path / FILE).read_text(encoding="utf-8"))
    assert (row["words"], row["paragraphs"], row["dropped"]) == (30 * 12, 30, {"heading": 1})


def test_a_text_that_was_changed_is_refused(tmp_path: Path) -> None:
    write_shelf(tmp_path, [check_book(book())])
    with (tmp_path / "7.txt").open("a", encoding="utf-8") as file:
        file.write("More.\n")
    with pytest.raises(UserError, match=r"7\.txt is not the text that books\.jsonl tells of"):
        read_shelf(tmp_path)
    (tmp_path / FILE).write_text('{"id": "7", "file": "../7.txt"}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"line 1: it is no row of a book"):
        read_shelf(tmp_path)


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        ({"text": "CHAPTER I\n\nShort."}, "it has 6 characters"),
        ({"whole": False}, "it breaks off"),
        ({"language": "fi"}, "its language is 'fi', not 'en'"),
        ({"text": f"{TEXT}\n\nThis Project Gutenberg text is free."}, "it still has 'project gutenberg'"),
    ],
)
def test_faults(wrong: dict[str, object], fault: str) -> None:
    assert fault in check_book(book(**wrong), "en").fault


def test_a_folder_of_texts_is_cleaned_as_it_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "night.txt").write_text(f"Title: x\n\n{TEXT}", encoding="utf-8")
    (tmp_path / "short.txt").write_text("Nothing.", encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        (found,) = read_shelf(tmp_path)
    assert found.id == "night" and "CHAPTER" not in found.text
    assert "'short' (short) is left out: after cleaning it has 8 characters" in caplog.text
    with pytest.raises(UserError, match=r"no book in .* can be used"):
        read_shelf(tmp_path / "short.txt")
