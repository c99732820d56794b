"""Refills: what a model is asked, what of its answers is taken, and rows that fit the chunks."""

from dataclasses import replace
from pathlib import Path

import pytest

from lit_narrative.errors import UserError
from lit_narrative.files import write_jsonl
from lit_narrative.tasks.style.corpus import Chunk
from lit_narrative.tasks.style.refills import questions, read_refills, refill_row, refilled, refills_of, replacement

CHUNK = Chunk("One went. Two went far away.\n\nThree went home. Four slept.", "Ann", "Sea", "prose", 3, "train")


def test_a_question_for_each_sentence_but_the_last() -> None:
    asked = questions(CHUNK.text)
    assert len(asked) == 3
    assert "One went. [...] Three went home. Four slept." in asked[1] and "about 4 words" in asked[1]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ('  "She sailed\t on."\nIt fits well.', "She sailed on."),
        ("One went.", None),
        ("", None),
        ("\n \n", None),
        ("word " * 500, None),
        (None, None),
        (7, None),
    ],
)
def test_what_is_taken_of_an_answer(answer: object, expected: str | None) -> None:
    assert replacement(answer, "One went.") == expected


def test_the_longest_sentences_are_replaced_first() -> None:
    new = ["A.", "B.", "C."]
    assert refilled(CHUNK.text, new, 1) == "One went. B.\n\nThree went home. Four slept."
    assert refilled(CHUNK.text, new, 2) == "One went. B.\n\nC. Four slept."
    assert refilled(CHUNK.text, new, 3) == "A. B.\n\nC. Four slept."


def test_rows_are_of_the_chunks_that_they_were_made_of(tmp_path: Path) -> None:
    row = refill_row(CHUNK, ["A.", "B.", "C."])
    assert refill_row(CHUNK, ["A.", None, "C."]) is None
    rows = read_refills(write_jsonl(tmp_path / "refills.jsonl", [row]))
    assert refills_of(rows, [CHUNK]) == {CHUNK.name: ["A.", "B.", "C."]}
    with pytest.raises(UserError, match=r"none of its 1 rows is of these chunks"):
        refills_of(rows, [replace(CHUNK, text="Another text.")])


@pytest.mark.parametrize("line", ["[]", '{"chunk": "a", "digest": "b", "replacements": [1]}'])
def test_a_line_that_is_no_row_is_said(tmp_path: Path, line: str) -> None:
    (tmp_path / "refills.jsonl").write_text(f"\n{line}\n")
    with pytest.raises(UserError, match="line 2: it is no row of refills"):
        read_refills(tmp_path / "refills.jsonl")
    with pytest.raises(UserError, match="make it by `lit-narrative data refill`"):
        read_refills(tmp_path / "none.jsonl")
