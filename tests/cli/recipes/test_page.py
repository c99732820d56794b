"""The page of a sweep."""

import re
from itertools import pairwise
from xml.etree import ElementTree

from lit_narrative.cli.recipes.page import PASSES, SweepView, build_sweep_page, read_together
from lit_narrative.cli.recipes.results import DONE, FAILED, Row, Sample
from lit_narrative.cli.recipes.statistics import group_rows
from lit_narrative.report.charts import Point, scatter

BASELINE = ("arm", "base")


def view(arms: dict[str, float], seeds: int = 2, samples: bool = True, **metrics: float) -> SweepView:
    """A page of arms whose rewards differ from sample to sample and from seed to seed."""
    rows = []
    for arm, level in arms.items():
        for seed in range(seeds):
            scores = [level + 0.1 * place + 0.01 * seed for place in range(6)]
            texts = [
                Sample(f"<p>{place}", f"{arm} wrote & {place} {seed}", {"reward": s}) for place, s in enumerate(scores)
            ]
            result = {"reward": sum(scores) / 6, PASSES: 1 + 2 * level, **metrics}
            values = {"model": ("tiny",), "arm": (arm,)}
            key = f"{arm}_{seed}"
            kept = texts if samples else ()
            rows.append(Row(key, values, seed, 6, DONE, seconds=3.0, metrics=result, samples=kept))
    rows.append(Row("bad_key", {"model": ("tiny",), "arm": ("bad",)}, 0, 6, FAILED, error="<script>boom</script>"))
    shown = ["reward", *metrics]
    return SweepView("verse", "model", "tiny", group_rows(rows, shown, BASELINE), shown, BASELINE)


def test_the_page_shows_figures_costs_failures_and_texts_escaped() -> None:
    page = build_sweep_page(view({"base": 0.1, "pplm": 0.4}))
    assert "4 of 5 runs are done" in page
    assert "<script>" not in page and "&lt;script&gt;boom" in page
    assert "pplm wrote &amp; 0 0" in page and "&lt;p&gt;0" in page
    assert "+0.300" in page and "passes of the model a token" in page
    assert "by Student's t over the runs" in page and "by bootstrap over its prompts" not in page
    assert page.count("<svg") == 2
    for drawing in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(drawing)


def test_the_same_prompts_stand_side_by_side() -> None:
    pairs = read_together(view({"base": 0.1, "pplm": 0.4}))
    assert [prompt for prompt, _ in pairs] == ["<p>0", "<p>1", "<p>2", "<p>3"]
    assert pairs[1][1] == [("base", "sft", "base wrote & 1 0"), ("pplm", "final", "pplm wrote & 1 0")]


def test_the_interval_of_a_single_run_is_over_its_prompts() -> None:
    page = build_sweep_page(view({"base": 0.1}, seeds=1))
    assert "by bootstrap over its prompts" in page and "Student" not in page
    assert "so no interval" in " ".join(build_sweep_page(view({"base": 0.1}, seeds=1, samples=False)).split())


def test_a_page_without_samples_or_figures_says_so() -> None:
    assert "No run kept samples" in build_sweep_page(view({"base": 0.1}, samples=False))
    empty = build_sweep_page(view({}))
    assert "0 of 1 runs are done" in empty
    assert empty.count("No run left a figure.") == 2


def test_without_passes_the_cost_is_time() -> None:
    whole = view({"base": 0.1})
    row = whole.groups[0].rows[0]
    timed = Row(row.key, row.values, 0, 6, DONE, seconds=7.0, metrics={"reward": 0.5})
    groups = group_rows([timed], ["reward"], BASELINE)
    page = build_sweep_page(SweepView("verse", "model", "tiny", groups, ["reward"], None))
    assert "seconds a run: base 0.500 at 7.0" in page
    assert "compares them with" not in page


def test_a_scatter_keeps_names_apart_and_inside() -> None:
    points = [Point(f"arm {n}", 1.0 + n % 2, 0.5 + 0.001 * n, interval=(0.4, 0.6)) for n in range(6)]
    root = ElementTree.fromstring(scatter("Reward", points, "passes"))
    names = [node for node in root.iter() if node.get("class") == "name"]
    for side in ("start", "end"):
        places = sorted(float(node.get("y") or 0) for node in names if node.get("text-anchor") == side)
        assert len(places) == 3
        assert all(second - first >= 13 for first, second in pairwise(places))
    dots = {node[0].text: float(node.get("cy") or 0) for node in root.iter() if node.get("r")}
    assert dots["arm 5: 0.505 at 2.00"] < dots["arm 0: 0.500 at 1.00"]
    assert all(0 <= float(node.get("y") or 0) <= 210 for node in names)
