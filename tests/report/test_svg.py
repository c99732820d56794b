from xml.etree import ElementTree

import pytest

from lit_narrative.report.svg import Axis, drawing, node, padded, round_step, tick_label


def test_text_and_attributes_are_escaped() -> None:
    markup = drawing(10, 10, '"><script>', [node("text", text="<b>&", class_="a b", stroke_width=1.5)])
    assert "<script>" not in markup and "<b>" not in markup
    root = ElementTree.fromstring(markup)
    assert root.get("aria-label") == '"><script>'
    assert root[0].attrib == {"class": "a b", "stroke-width": "1.5"} and root[0].text == "<b>&"


def test_numbers_are_short_and_empty_attributes_go() -> None:
    assert node("line", x1=1.0, x2=2.5, class_="").attrib == {"x1": "1", "x2": "2.5"}


@pytest.mark.parametrize(("rough", "step"), [(0.03, 0.05), (0.2, 0.2), (0.21, 0.5), (7, 10), (130, 200)])
def test_round_step(rough: float, step: float) -> None:
    assert round_step(rough) == pytest.approx(step)


def test_axis_maps_ends_and_middle() -> None:
    axis = Axis(0, 10, 100, 0)
    assert [axis(0), axis(5), axis(10)] == [100, 50, 0]


def test_ticks_are_round_and_inside() -> None:
    assert Axis(0.13, 0.92, 0, 1).ticks(5) == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert Axis(0, 2, 0, 1).ticks(5, least=1) == [0, 1, 2]


def test_padded_bounds_have_width_even_for_one_value() -> None:
    low, high = padded([8.0])
    assert low < 8 < high
    low, high = padded([0.0, 0.0])
    assert low < 0 < high


@pytest.mark.parametrize(
    ("value", "step", "text"), [(0.2, 0.1, "0.2"), (0, 0.1, "0.0"), (-1, 1, "−1"), (2000, 1000, "2k"), (20, 20, "20")]
)
def test_tick_label(value: float, step: float, text: str) -> None:
    assert tick_label(value, step) == text
