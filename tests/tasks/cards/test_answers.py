"""Reading and judging what was written."""

import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from lit_narrative.tasks.cards.answers import LONGEST, judge, parse, score
from lit_narrative.tasks.cards.prompts import completion_text
from tests.tasks.cards.hands import columns


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (" 5", "5"),
        (" -12", "-12"),
        ("the total is 7.", "7"),
        ("+4", "4"),
        ("-0", "0"),
        ("007", "7"),
        ("5 6", "5"),
        ("5\nRule: add", "5"),
        (" 3 -2 2 ; 2", "2"),
        ("3;-2;7", "7"),
        ("3 ; 4 ; 9 8", "9"),
        ("Answer: 3", "3"),
        ("ANSWER : 3", "3"),
        ("3 -2 2 ;", None),
        ("3 ; five", None),
        ("1_000", None),
        ("3.5", None),
        ("٣", None),
        ("x5", None),
        ("--5", None),
        ('"6"', None),
        ("5%", None),
        ("", None),
        ("9" * 5000, None),
        ("1 " * LONGEST, None),
    ],
)
def test_the_answer_to_a_numeric_rule(text: str, answer: str | None) -> None:
    assert parse(text).answer == answer
    assert parse(text).valid == (answer is not None)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("BIG", "BIG"),
        (" 3 8 ; small.", "SMALL"),
        ("Small or BIG", "SMALL"),
        ("BIGGER", None),
        ("5", None),
        ("BIG ; 5", None),
        ("", None),
        # Letters whose capitals, small letters and folded forms are not one another's.
        ("DİG", None),
        ("BİG", None),
        ("bi\u0307g", None),
        ("straße SMALL", "SMALL"),
        ("ﬁg big", "BIG"),
        ("ſmall", "SMALL"),
    ],
)
def test_the_answer_to_a_classification(text: str, answer: str | None) -> None:
    assert parse(text, ["BIG", "SMALL"]).answer == answer


def test_the_scratchpad_is_read_too() -> None:
    assert parse(" 3 -2 , 2 ; 2").trace == (3, -2, 2)
    assert parse(" 3 -2 2").trace == ()
    assert parse(" 3 x 2 ; none").trace == (3, 2)


@drawn(st.text(max_size=80), st.sampled_from(["red_minus_blue", "sum_above_20"]))
def test_no_text_raises(text: str, rule: str) -> None:
    result = judge(text, columns(rule))
    assert 0 <= result.process <= 1
    assert 0 <= result.misfit <= 1
    assert result.valid or not result.correct


@drawn(st.lists(st.integers(-150, 150), max_size=9), st.integers(-150, 150))
def test_what_is_written_is_read(totals: list[int], answer: int) -> None:
    result = parse(completion_text(str(answer), totals, "running_total"))
    assert (result.answer, result.trace) == (str(answer), tuple(totals))


def test_a_right_answer() -> None:
    result = judge(" 3 -2 -2 2 ; 2", columns())
    assert (result.correct, result.process, result.trace_exact, result.misfit) == (True, 1.0, True, 0.0)


@pytest.mark.parametrize(
    ("text", "correct", "process", "exact"),
    [
        (" 3 -2 ; 2", True, 0.5, False),
        (" 3 -2 -2 2 2 2 2 2 ; 2", True, 0.5, False),
        (" 3 0 0 2 ; 5", False, 0.5, False),
        (" 2", True, 0.0, False),
        (" ", False, 0.0, False),
    ],
)
def test_partly_right(text: str, correct: bool, process: float, exact: bool) -> None:
    result = judge(text, columns())
    assert (result.correct, result.process, result.trace_exact) == (correct, process, exact)


def test_without_scratchpad_there_is_no_trace_to_be_exact() -> None:
    assert judge(" 2", columns(scratchpad="none")).trace_exact is None
    assert judge(" 2", columns(scratchpad="none")).misfit == 0
    assert judge(" 2 or so", columns(scratchpad="none")).misfit == 1


@pytest.mark.parametrize(
    ("text", "misfit"),
    [(" 3 -2 -2 2 ; 2 well well well", 0.5), (" 3 -2 ; 2", 1 / 3), (" 2", 5 / 6), ("", 1), (" 2" * 40, 1)],
)
def test_words_too_many_and_too_few_count(text: str, misfit: float) -> None:
    assert judge(text, columns()).misfit == pytest.approx(misfit)


def test_many_at_once() -> None:
    result = score([" 2", " 3"], [columns(), columns()])
    assert [row.correct for row in result] == [True, False]
