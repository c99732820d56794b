"""Finding poems in plain text: small texts with one difficulty each."""

import time

import pytest

from lit_narrative.tasks.poetry.poems import Poem, find_poems

STANZA = "The boat is in, the nets are dry,\nThe lamps are lit along the quay,\n"
PROSE = (
    "This small book was set from the second edition, whose printer, so far as\n"
    "we could learn, left nothing out and put nothing in; where a line was too\n"
    "long for the page he turned it over, and we have put it back in its place.\n"
)


def titles(text: str) -> list[str]:
    return [poem.title for poem in find_poems(text)]


def test_a_text_of_one_poem_keeps_its_stanzas() -> None:
    (poem,) = find_poems(f"{STANZA}\n{STANZA}", "harbour")
    lines = tuple(STANZA.splitlines())
    assert poem == Poem("", (lines, lines), "harbour")
    assert poem.lines == lines * 2
    assert poem.text == f"{STANZA}\n{STANZA}".rstrip()


def test_two_blank_lines_part_poems_and_one_parts_stanzas() -> None:
    result = find_poems(f"{STANZA}\n{STANZA}\n\n{STANZA}\n{STANZA}")
    assert [len(poem.stanzas) for poem in result] == [2, 2]


def test_where_wide_gaps_are_wider_two_blank_lines_do_not_part() -> None:
    text = f"\n\n\n\nONE\n\n{STANZA}\n\n\n{STANZA}\n\n\n\nTWO\n\n{STANZA}\n\n{STANZA}\n\n\n\nTHREE\n\n{STANZA}"
    text = text.replace("\n\n\n\nONE", "ONE").replace(f"{STANZA}\n\n\n{STANZA}", f"{STANZA}\n\n{STANZA}")
    assert [(poem.title, len(poem.stanzas)) for poem in find_poems(text)] == [("ONE", 2), ("TWO", 2), ("THREE", 1)]


def test_ruled_lines_and_end_marks_part_poems() -> None:
    for rule in ("* * *", "-----", "<|endoftext|>", "***"):
        assert len(find_poems(f"{STANZA}\n{STANZA}{rule}\n{STANZA}\n{STANZA}")) == 2, rule


def test_roman_numbers_alone_name_poems() -> None:
    sonnets = "".join(f"  {number}\n\n{STANZA}{STANZA}\n" for number in ("I", "II", "III", "IV", "XLIX"))
    assert titles(f"THE BOOK\n\nby Anna Holm\n\n\n\n{sonnets}") == ["I", "II", "III", "IV", "XLIX"]


def test_numbers_within_a_titled_poem_are_its_sections() -> None:
    text = f"The Long Road\n\n  1\n{STANZA}\n  2\n{STANZA}\n\n\n\nThe Short Road\n\n{STANZA}"
    result = find_poems(f"\n\n\n{text}")
    assert [(poem.title, len(poem.lines)) for poem in result] == [("The Long Road", 4), ("The Short Road", 2)]


def test_titles_in_capitals_need_no_wide_gap() -> None:
    assert titles(f"THE QUAY\n{STANZA}\nTHE LAMP\n\n{STANZA}") == ["THE QUAY", "THE LAMP"]
    assert titles(f"THE QUAY\n\n{STANZA}\nTHE LAMP\n\n{STANZA}") == ["THE QUAY", "THE LAMP"]


def test_the_nearest_of_two_headings_is_the_title() -> None:
    assert titles(f"BOOK I\n\n\nThe Quay\n\n{STANZA}") == ["The Quay"]


def test_titles_lose_their_notes_and_notes_in_brackets_go() -> None:
    text = f"\n\nThe Quay [written at sea]\n\n   [For a friend, who\n   was there]\n{STANZA}\n"
    (poem,) = find_poems(text)
    assert poem.title == "The Quay"
    assert len(poem.lines) == 2


def test_an_open_bracket_swallows_nothing() -> None:
    (poem,) = find_poems(f"{STANZA}[The bells that ring for him who stays\n\n{STANZA}\n{STANZA}See note]\n")
    assert len(poem.lines) >= 7


def test_tables_of_contents_are_left_out() -> None:
    pages = "CONTENTS\n\nThe Quay        1\nThe Lamp        4\nThe Short Road  9\n"
    names = "CONTENTS\n\n  The Quay\n  The Lamp\n  The Short Road\n"
    for table in (pages, names):
        assert titles(f"{table}\n\n\nTHE QUAY\n\n{STANZA}") == ["THE QUAY"]


def test_a_preface_is_no_poem_and_lends_no_title() -> None:
    assert titles(f"PREFACE\n\n{PROSE}\n\n\n{STANZA}\n{STANZA}\n\n\n{STANZA}\n{STANZA}") == ["", ""]


def test_amid_prose_verse_is_what_is_indented() -> None:
    song = "".join(f"     {line}\n" for line in STANZA.splitlines() * 2)
    talk = '"Come in!" said she.\n\n"Not yet."\n\n"When, then?"\n\n"Never."\n\n'
    (poem,) = find_poems(f"{PROSE * 2}\n{PROSE * 2}\n{song}\n{talk}{PROSE}\n")
    assert poem.lines == tuple(STANZA.splitlines() * 2)
    assert find_poems(f"{PROSE}\n{talk}\n{PROSE}") == []


def test_turned_over_lines_are_joined() -> None:
    text = (
        "  I saw the long and level line of lamps along the harbour wall go\n"
        "      out, and no one lit them;\n"
        "  The tide came in, and with it, as it always has, the smell of north-\n"
        "      ern ice, the wide grey\n"
        "      morning, and the gulls--\n"
        "  And I went home.\n"
    )
    (poem,) = find_poems(text)
    assert poem.lines == (
        "I saw the long and level line of lamps along the harbour wall go out, and no one lit them;",
        "The tide came in, and with it, as it always has, the smell of north-ern ice, the wide grey",
        "morning, and the gulls--",
        "And I went home.",
    )


def test_short_indented_lines_stay_lines() -> None:
    (poem,) = find_poems("The tide comes in,\n      And I go out;\nThe tide goes out,\n      And I come in.\n")
    assert len(poem.lines) == 4


def test_verse_in_small_letters_and_quoted_verse_are_verse() -> None:
    (poem,) = find_poems("the quay is wet\nthe boat is in\nthe lamp is lit\n")
    assert len(poem.lines) == 3
    quoted = "“The quay is wet, and no one comes to light the lamps tonight,”\n‘Go home,’ said he.\n(And so I went.)\n"
    (poem,) = find_poems(quoted)
    assert len(poem.lines) == 3


def test_marks_of_emphasis_and_line_numbers_go() -> None:
    (poem,) = find_poems("The _boat_ is in,\nThe nets are dry,   10\nThe lamps are lit.\n")
    assert poem.lines == ("The boat is in,", "The nets are dry,", "The lamps are lit.")


def test_nothing_is_found_in_nothing() -> None:
    assert find_poems("") == []
    assert find_poems("\n\n \t\n") == []
    assert find_poems("A line alone") == []


@pytest.mark.parametrize("piece", ["a [", "x. . ", "a    ", "[a a\n", "a   1", "_ ", "ivx  "])
def test_a_line_as_long_as_a_file_takes_no_longer_than_many(piece: str) -> None:
    text = f"[ {piece * 30_000} b\n{' ' * 50_000}b\n"
    start = time.thread_time()
    find_poems(text)
    assert time.thread_time() - start < 0.3 + 2e-6 * len(text)
