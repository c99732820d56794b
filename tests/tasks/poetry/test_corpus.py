"""Reading verse from files and folders, and what there is in three real books."""

from pathlib import Path

import pytest

from lit_narrative.errors import UserError
from lit_narrative.tasks.poetry.corpus import normal_form, pieces, read_corpus
from lit_narrative.tasks.poetry.poems import Poem
from tests.paths import DATA

BOOKS = DATA / "gutenberg"
real = pytest.mark.skipif(not BOOKS.is_dir(), reason=f"no books at {BOOKS}; set LIT_DATA")
STANZA = "The boat is in, the nets are dry,\nThe lamps are lit along the quay,\nThe gulls are gone.\n"
EBOOK = (
    "The Project Gutenberg EBook of The Quay\n\nThis eBook is for the use of anyone\n\n"
    "*** START OF THIS PROJECT GUTENBERG EBOOK THE QUAY ***\n\n{}\n\nEnd of Project Gutenberg's The Quay\n\n"
    "*** END OF THIS PROJECT GUTENBERG EBOOK THE QUAY ***\n\nThe License\nAnd Terms\nOf Use\n"
)


def test_a_file_and_a_folder_are_read_in_order_and_nothing_twice(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text(f"SECOND\n\n{STANZA}Again.\n", encoding="utf-8")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "c.txt").write_text(STANZA.upper().replace(",", " ;").lower(), encoding="utf-8")
    (tmp_path / "a.txt").write_text(f"FIRST\n\n{STANZA}", encoding="utf-8")
    (tmp_path / "notes.md").write_text(f"THIRD\n\n{STANZA}No.\n", encoding="utf-8")
    assert [(poem.title, poem.source) for poem in read_corpus(tmp_path)] == [("FIRST", "a"), ("SECOND", "b")]
    assert [poem.title for poem in read_corpus(tmp_path / "b.txt")] == ["SECOND"]


@pytest.mark.parametrize("end", ["\r\n", "\r", "\r\r\n"])
def test_any_line_end_and_a_byte_order_mark(tmp_path: Path, end: str) -> None:
    path = tmp_path / "poem.txt"
    path.write_bytes(b"\xef\xbb\xbf" + STANZA.replace("\n", end).encode())
    assert read_corpus(path)[0].text == STANZA.strip()


def test_other_encodings_are_read(tmp_path: Path) -> None:
    (tmp_path / "poem.txt").write_bytes(STANZA.replace("quay", "qu\u00e9").encode("latin-1"))
    assert "along the qu\u00e9," in read_corpus(tmp_path)[0].text


def test_header_and_licence_go(tmp_path: Path) -> None:
    path = tmp_path / "ebook.txt"
    path.write_text(EBOOK.format(STANZA), encoding="utf-8")
    assert [poem.text for poem in read_corpus(path)] == [STANZA.strip()]


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.corpus: no file or folder .*gone"):
        read_corpus(tmp_path / "gone")
    with pytest.raises(UserError, match=r"no \.txt file under"):
        read_corpus(tmp_path)
    for content, message in (
        (b"The quay\0\0\0\n" * 4, r"picture\.txt is a binary file"),
        (b"", r"no verse in .*text files read: 1.*one blank line"),
        (b"A line alone.\n", "no verse in"),
    ):
        (tmp_path / "picture.txt").write_bytes(content)
        with pytest.raises(UserError, match=message):
            read_corpus(tmp_path)


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "poem.txt").symlink_to(tmp_path / "poem.txt")
    with pytest.raises(UserError, match=r"no \.txt file under"):
        read_corpus(tmp_path)


def test_texts_that_differ_in_case_and_marks_alone_have_one_form() -> None:
    assert normal_form("The Boat, is\n\nin!") == normal_form("the boat is in") == "the boat is in"


def test_long_poems_are_cut_between_stanzas() -> None:
    poem = Poem("", (("a", "b", "c"), ("d", "e"), tuple("fghijklm"), ("n",)), "x")
    cut = list(pieces(poem, 5))
    assert [piece.lines for piece in cut] == [tuple("abcde"), tuple("fghij"), tuple("klmn")]
    assert cut[0].stanzas == (("a", "b", "c"), ("d", "e"))
    assert {piece.source for piece in cut} == {"x"}
    assert [piece.lines for piece in pieces(Poem("", (tuple("abcdef"),)), 5)] == [tuple("abcde")]


@real
def test_the_sonnets() -> None:
    poems = read_corpus(BOOKS / "1041.txt")
    assert len(poems) == 154
    lengths = {poem.title: len(poem.lines) for poem in poems}
    # The 99th has fifteen lines and the 126th twelve, as printed.
    assert {title: n for title, n in lengths.items() if n != 14} == {"XCIX": 15, "CXXVI": 12}
    assert poems[0].lines[0] == "From fairest creatures we desire increase,"
    assert poems[17].title == "XVIII"
    assert poems[17].lines[0] == "Shall I compare thee to a summer's day?"
    assert poems[-1].lines[-1] == "Love's fire heats water, water cools not love."


@real
def test_songs_of_innocence_and_experience() -> None:
    poems = read_corpus(BOOKS / "1934.txt")
    assert len(poems) == 47  # nineteen and twenty-eight, as the table of contents has them
    by_title = {poem.title: poem for poem in poems}
    assert [len(stanza) for stanza in by_title["THE TIGER"].stanzas] == [4] * 6
    assert by_title["THE LAMB"].lines[0] == "Little lamb, who made thee?"
    assert poems[-1].title == "THE VOICE OF THE ANCIENT BARD"
    assert poems[-1].lines[-1] == "And wish to lead others, when they should be led."


@real
def test_leaves_of_grass() -> None:
    poems = read_corpus(BOOKS / "1322.txt")
    # 390 titles stand in it, two of them over a single line, which is taken for no poem.
    assert len(poems) == 388
    by_title = {poem.title: poem for poem in poems}
    assert by_title["The Ship Starting"].lines == (
        "Lo, the unbounded sea,",
        "On its breast a ship starting, spreading all sails, carrying even her moonsails.",
        "The pennant is flying aloft as she speeds she speeds so stately--below emulous waves press forward,",
        "They surround the ship with shining curving motions and foam.",
    )
    assert len(by_title["O Captain! My Captain!"].stanzas) == 3
    assert len(by_title["Song of Myself"].lines) > 1300
    assert not {"Thought", "LEAVES OF GRASS"} - {"Thought"} & set(by_title)


@real
def test_novels_hold_little_verse() -> None:
    assert len(read_corpus(BOOKS / "11.txt")) == 11
    assert len(read_corpus(BOOKS / "84.txt")) == 3
    with pytest.raises(UserError, match="no verse in"):
        read_corpus(BOOKS / "1342.txt")
