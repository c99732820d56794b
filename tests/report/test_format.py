import pytest

from lit_narrative.report.format import clip, interval, number, percent, printable, signed, significant


@pytest.mark.parametrize(
    ("value", "text"), [(0.12345, "0.123"), (-0.5, "−0.500"), (-0.0001, "0.000"), (0, "0.000"), (None, "–")]
)
def test_number(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(("value", "text"), [(0.1, "+0.100"), (-0.1, "−0.100"), (0.0001, "0.000")])
def test_signed(value: float, text: str) -> None:
    assert signed(value) == text


@pytest.mark.parametrize(
    ("share", "text"), [(0.879, "88%"), (1, "100%"), (0.996, "99.6%"), (0, "0%"), (0.004, "0.4%"), (None, "–")]
)
def test_percent_never_claims_all_or_nothing_by_rounding(share: float | None, text: str) -> None:
    assert percent(share) == text
    assert percent(0.9996, 1) == "99.96%" and percent(0.5, 1) == "50.0%" and percent(1, 1) == "100.0%"


@pytest.mark.parametrize(("value", "text"), [(1e-5, "1e-05"), (-0.25, "−0.25"), (8.0, "8"), (12345.6, "1.235e+04")])
def test_significant(value: float, text: str) -> None:
    assert significant(value) == text


def test_interval() -> None:
    assert interval((0.7123, 0.7701)) == "0.712 to 0.770"
    assert interval(None) == "–"


def test_clip_bounds_the_length_and_marks_the_cut() -> None:
    assert clip("abcdef", 4) == "abc…"
    assert clip("abcd", 4) == "abcd"


def test_what_would_disturb_the_page_is_replaced() -> None:
    hostile, mark = "a\x00b\ud800c\u202ed", "\N{REPLACEMENT CHARACTER}"
    assert printable(hostile) == f"a{mark}b{mark}c{mark}d"
    assert printable("line\n\ttab é 🙂") == "line\n\ttab é 🙂"
