"""Teachers give a text for each place, by the place alone."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lit_narrative.errors import UserError
from lit_narrative.tasks.verbalize.teachers import Place, TeacherSettings, last_words, make_teacher

SOURCE = "Ada walked, in the rain, to the old harbour."
PLACES = [Place(f"{n:024x}", n, f"{SOURCE} A fox sat by lantern {n}") for n in range(40)]


@pytest.mark.parametrize(
    ("count", "text"), [(1, "."), (2, "harbour."), (4, "the old harbour."), (6, ", to the old harbour."), (99, SOURCE)]
)
def test_a_window_is_the_end_of_the_text(count: int, text: str) -> None:
    assert last_words(SOURCE, count) == text
    assert last_words(SOURCE + "  ", count) == text
    assert last_words("", count) == last_words(" \n", count) == ""


def test_window_teacher() -> None:
    texts = make_teacher(TeacherSettings(words=2))(PLACES)
    assert texts == [f"lantern {n}" for n in range(40)]


def test_random_words_are_some_of_the_last_in_order() -> None:
    settings = TeacherSettings("words", words=3, last=6)
    texts = make_teacher(settings)(PLACES)
    for text, place in zip(texts, PLACES, strict=True):
        pieces = iter(place.source.replace(".", " .").replace(",", " ,").split()[-6:])
        assert text and all(word in pieces for word in text.split())  # a subsequence
    assert {len(str(text).split()) for text in texts} == {1, 2, 3}
    assert make_teacher(settings)(PLACES[::-1]) == texts[::-1]
    assert make_teacher(settings, seed=1)(PLACES) != texts
    assert make_teacher(settings)([Place("0", 0, "")]) == [""]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_texts_of_a_file_are_found_by_place(tmp_path: Path, kind: str) -> None:
    rows = [{"document": p.document, "position": p.position, "explanation": f"e{p.position}"} for p in PLACES[::2]]
    path = tmp_path / f"texts.{kind}"
    if kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    else:
        pq.write_table(pa.Table.from_pylist([{**row, "more": 1} for row in rows]), path)
    texts = make_teacher(TeacherSettings("file", file=str(path)))(PLACES)
    assert texts == [None if n % 2 else f"e{n}" for n in range(40)]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"document": "a", "position": 1}', "row 0"),
        ('{"document": "a", "position": "1", "explanation": "x"}', "row 0"),
        ("not json", "line 1"),
        ("", "no row"),
    ],
)
def test_a_file_that_lacks_something_is_refused(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match=said):
        make_teacher(TeacherSettings("file", file=str(path)))
    with pytest.raises(UserError, match="none"):
        make_teacher(TeacherSettings("file", file=str(tmp_path / "none.parquet")))


@pytest.mark.parametrize(
    "settings", [{"kind": "x"}, {"words": 0}, {"kind": "words", "words": 3, "last": 2}, {"kind": "file"}, {"file": "x"}]
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="--"):
        TeacherSettings(**settings)


def test_no_teacher_has_empty_texts() -> None:
    assert make_teacher(TeacherSettings("none"))(PLACES[:2]) == ["", ""]
    names = [str(TeacherSettings(kind, file="f" if kind == "file" else None)) for kind in ("window", "words", "file")]
    assert len({*names, str(TeacherSettings("none"))}) == 4
