"""Reading books: encodings, line ends, headers and licences old and new."""

from pathlib import Path

import pytest

from lit_narrative.books.read import decode, parse_book, read_book, read_books, strip_gutenberg
from lit_narrative.errors import UserError

STORY = "It was a dark night.\n\nThe “captain” slept.\n"
HEADER = (
    "The Project Gutenberg EBook of The Night, by A. Mariner\n\nThis eBook is for the use of anyone\n\n"
    "Title: The Night\n       or, A Voyage\n\nAuthor: A. Mariner\n\nRelease Date: May, 1998 [EBook #77]\n\n"
    "Language: English\n\n"
)
START = "*** START OF THIS PROJECT GUTENBERG EBOOK THE NIGHT ***\n\n"
END = "\n\nEnd of the Project Gutenberg EBook of The Night, by\nA. Mariner\n\n*** END OF THIS PROJECT GUTENBERG EBOOK\n"
LICENCE = "\n*** START: FULL LICENSE ***\n\nTHE FULL PROJECT GUTENBERG LICENSE\n"


def test_what_the_header_says() -> None:
    book = parse_book(HEADER + START + STORY + END + LICENCE, "file")
    assert (book.id, book.title, book.author, book.language) == ("77", "The Night or, A Voyage", "A. Mariner", "en")
    assert book.text == STORY and book.whole


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (START, END),
        (
            "***START OF THE PROJECT GUTENBERG EBOOK THE NIGHT OR A\nVOYAGE***\n",
            "***END OF THE PROJECT GUTENBERG EBOOK",
        ),
        ("*** START OF THE PROJECT GUTENBERG EBOOK 77 ***\n", "*** END OF THE PROJECT GUTENBERG EBOOK 77 ***\n"),
        (
            "*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\n",
            "\nEnd of Project Gutenberg's The Night",
        ),
        (START + "\nProduced by Ann Other and\nBob Else. HTML version by C. D.\n\n", END),
        (START + "Transcribed from the 1901 edition by E. F.,\nemail e@f.org\n\nProduced by G. H.\n\n\n", END),
        (START, "\n***** This file should be named 77.txt *****\n".replace("***** ", "")),
    ],
)
def test_markers_and_credits_of_all_times_go(start: str, end: str) -> None:
    assert strip_gutenberg(HEADER + start + STORY + end + LICENCE) == STORY


def test_a_text_without_markers_stays_whole() -> None:
    assert strip_gutenberg(STORY) == STORY
    book = parse_book(STORY, "night")
    assert (book.id, book.title, book.author, book.whole) == ("night", "night", "", True)
    produced = "Produced by nobody, the play had no effect.\n"
    assert strip_gutenberg(produced) == produced


def test_a_book_that_breaks_off_is_known_by_its_missing_end() -> None:
    assert not parse_book(HEADER + START + STORY).whole


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\r\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
def test_encodings_and_line_ends(tmp_path: Path, encoding: str, end: str) -> None:
    path = tmp_path / "night.txt"
    path.write_bytes(STORY.replace("\n", end).encode(encoding))
    assert read_book(path).text == STORY


def test_a_damaged_byte_does_not_make_utf_8_another_encoding() -> None:
    content = ("“No,” he said. " * 20).encode()
    assert decode(content[:-1] + b"\xff").startswith("“No,” he said.")


def test_latin_1_and_a_stray_carriage_return() -> None:
    assert decode("Une soirée d'été\r\nà l'île\rverte".encode("latin-1")) == "Une soirée d'été\nà l'île\nverte"


def test_a_text_without_header_is_by_whom_its_folder_is_named_after(tmp_path: Path) -> None:
    (tmp_path / "Ann Mariner").mkdir()
    (tmp_path / "Ann Mariner" / "night.txt").write_text(STORY, encoding="utf-8")
    (tmp_path / "Ann Mariner" / "other.txt").write_text(HEADER + START + STORY + END, encoding="utf-8")
    (tmp_path / "loose.txt").write_text(STORY, encoding="utf-8")
    assert [book.author for book in read_books(tmp_path)] == ["Ann Mariner", "A. Mariner", ""]
    assert read_books(tmp_path / "loose.txt")[0].author == ""


def test_what_is_no_book_is_said(tmp_path: Path) -> None:
    (tmp_path / "picture.txt").write_bytes(b"GIF89\0\0\x01")
    with pytest.raises(UserError, match=r"picture\.txt is a binary file"):
        read_books(tmp_path)
    with pytest.raises(UserError, match=r"data\.books: no file or folder .*nowhere"):
        read_books(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"data\.books is empty"):
        read_books("")
    (tmp_path / "picture.txt").unlink()
    with pytest.raises(UserError, match=r"no \.txt file under"):
        read_books(tmp_path)
