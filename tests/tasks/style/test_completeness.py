"""Completeness: both published curves, the trapezoid, and what counts as an end."""

import pytest

from lit_narrative.errors import UserError
from lit_narrative.tasks.style.completeness import (
    Completeness,
    CompletenessSettings,
    count_words,
    ended,
    trapezoid,
    twain_v1,
    twain_v2,
)

END = "THE END."


@pytest.mark.parametrize(
    ("words", "worth"),
    [
        (499, 0),
        (600, 0.5),
        (1200, 1),
        (1600, 1),
        (1601, 0.974),
        (1700, 0.742),
        (2000, 0.484),
        (3100, 0),
        (9999, 0),
    ],
)
def test_the_second_published_curve(words: int, worth: float) -> None:
    assert twain_v2(words) == pytest.approx(worth, abs=5e-4)


@pytest.mark.parametrize(("words", "worth"), [(499, 0), (500, 0.5976), (700, 0.7071), (1400, 1), (5000, 1)])
def test_the_first_published_curve(words: int, worth: float) -> None:
    assert twain_v1(words) == pytest.approx(worth, abs=5e-5)


def test_the_trapezoid_is_straight() -> None:
    settings = CompletenessSettings(floor=10, full=30, limit=50, excess=100)
    assert [trapezoid(words, settings) for words in (0, 10, 20, 30, 50, 75, 100, 10**6)] == [0, 0, 0.5, 1, 1, 0.5, 0, 0]


@pytest.mark.parametrize(
    ("text", "end", "whole"),
    [
        ("A tale.\nTHE END.", END, True),
        ("A tale.\n\n**The end**  \n", END, True),
        ("A tale, in the end.", END, False),
        ("we breathe end", END, False),
        ("THE END. And more", END, False),
        ("THE END.\nAnd more", END, False),
        ("", END, False),
        ("He went home.", "", True),
        ("“He went home!”", "", True),
        ("He went", "", False),
        ("", "", False),
    ],
)
def test_the_last_line_alone_is_the_end(text: str, end: str, whole: bool) -> None:
    assert ended(text, end) is whole


def test_words_are_counted_as_people_do() -> None:
    assert count_words("Don't — well-known, 12 “boats”!") == 4


def test_a_text_without_its_end_is_worth_less() -> None:
    body = "word " * 50
    short = CompletenessSettings(unfinished=0.25)
    assert Completeness(short).score(f"{body}\n{END}", END) == 1
    assert Completeness(short).score(body, END) == 0.25
    assert Completeness(CompletenessSettings("twain_v2")).score("word " * 1300, END) == 0
    assert Completeness(CompletenessSettings("twain_v2")).score("word " * 1300 + f"\n{END}", END) == 1
    assert Completeness(CompletenessSettings("twain_v1")).score("word " * 1400) == 0.5
    assert [Completeness().score(text, END) for text in ("", "\ud83d", "\n" * 1000)] == [0, 0, 0]


def test_settings_that_mean_nothing_are_refused() -> None:
    for given in ({"floor": 50}, {"limit": 300}, {"unfinished": 2.0}):
        with pytest.raises(UserError, match=r"data\.completeness"):
            CompletenessSettings(**given)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="numbers of its own"):
        CompletenessSettings("twain_v2", full=50)
    with pytest.raises(UserError, match="twain_v2"):
        CompletenessSettings("twain_v3")  # type: ignore[arg-type]
