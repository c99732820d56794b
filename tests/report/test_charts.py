from xml.etree import ElementTree

import pytest

from lit_narrative.report.charts import Dot, Frame, Level, Line, dot_chart, histogram, line_chart


def parts(markup: str, class_: str) -> list[ElementTree.Element]:
    root = ElementTree.fromstring(markup)
    return [element for element in root.iter() if class_ in (element.get("class") or "").split()]


def test_a_rising_curve_rises() -> None:
    markup = line_chart("Reward", [Line("rollouts", [(0, 0.1), (1, 0.2), (2, 0.4)], marked=True)])
    dots = parts(markup, "dot")
    xs, ys = [float(dot.get("cx") or "nan") for dot in dots], [float(dot.get("cy") or "nan") for dot in dots]
    assert xs == sorted(xs) and ys == sorted(ys, reverse=True)
    assert (ys[1] - ys[2]) == pytest.approx(2 * (ys[0] - ys[1]), abs=0.05)


def test_everything_lies_inside_the_drawing() -> None:
    lines = [Line("a", [(0, 0.5), (10, 0.9)], band=[0.3, 0.3]), Line("b", [(5, -2.0)])]
    frame = Frame(marks=(3, 50), x_label="step")
    root = ElementTree.fromstring(line_chart("Any", lines, [Level("corpus", 3.0, "corpus")], frame))
    for element in root.iter():
        for name in ("cx", "x1", "x2", "x"):
            assert 0 <= float(element.get(name) or 0) <= frame.width
        for name in ("cy", "y1", "y2", "y"):
            assert 0 <= float(element.get(name) or 0) <= frame.height


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-6, -1e-4, 1e5])
def test_the_numbers_of_the_upright_axis_are_not_cut_off(scale: float) -> None:
    texts = parts(line_chart("Any", [Line("a", [(0, 0.0), (10, scale)])]), "tick")
    numbers = [text for text in texts if text.get("text-anchor") == "end"]
    assert len(numbers) > 2
    assert all(float(text.get("x") or 0) >= 7 * len(text.text or "") for text in numbers)


def test_levels_lie_where_their_value_is() -> None:
    markup = line_chart(
        "Any", [Line("a", [(0, 0.0), (1, 1.0)], marked=True)], [Level("SFT", 0.5)], Frame(low=0, high=1)
    )
    low, high = (float(dot.get("cy") or "nan") for dot in parts(markup, "dot"))
    assert float(parts(markup, "level")[0].get("y1") or "nan") == pytest.approx((low + high) / 2, abs=0.05)


def test_a_mark_outside_the_steps_is_not_drawn() -> None:
    def rules(*marks: float) -> int:
        return len(parts(line_chart("Any", [Line("a", [(0, 0), (9, 1)])], (), Frame(marks=marks)), "rule"))

    assert rules(5) == rules() + 1
    assert rules(50) == rules()


def test_one_point_and_a_constant_curve_can_be_drawn() -> None:
    for points in ([(3.0, 8.0)], [(0.0, 8.0), (1.0, 8.0), (2.0, 8.0)]):
        markup = line_chart("L0", [Line("latents", points)])
        assert len(parts(markup, "dot")) == len(points) and "nan" not in markup


def test_a_chart_says_what_it_shows() -> None:
    label = ElementTree.fromstring(line_chart("KL", [Line("kl", [(0, 0), (1, 0.25)])])).get("aria-label")
    assert label == "KL: kl from 0.000 to 0.250"


def test_bars_are_as_high_as_their_counts() -> None:
    bars = parts(histogram("Density", [4, 2, 0], ["dead", "", "≤1"]), "bar")
    heights = [float(bar.get("height") or "nan") for bar in bars]
    assert heights[0] == pytest.approx(2 * heights[1], abs=0.05) and heights[2] == 0


def test_a_histogram_without_counts_can_be_drawn() -> None:
    assert len(parts(histogram("Density", [0, 0], ["dead", "≤1"]), "bar")) == 2


def test_dots_and_intervals_stay_within_the_axis() -> None:
    rows = [("reward", [Dot("SFT", 0.5, "sft", (0.4, 0.6)), Dot("final", 1.7, "final", (-3.0, 9.0), hollow=True)])]
    markup = dot_chart("Any", rows, (0, 1), gutter=100)
    assert [float(dot.get("cx") or "nan") for dot in parts(markup, "dot")] == [223, 346]
    assert [float(bar.get("x1") or "nan") for bar in parts(markup, "range")] == [pytest.approx(198.4), 100]
    assert len(parts(markup, "hollow")) == 1


def test_foreign_names_are_escaped() -> None:
    assert "<img" not in dot_chart("<img src=x>", [("<img src=x>", [Dot("<img src=x>", 0.5, "sft")])])
    assert "<img" not in line_chart("<img src=x>", [Line("<img src=x>", [(0, 1)])], [Level("<img src=x>", 1)])
