"""Means, intervals and paired differences of a sweep's runs."""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from lit_narrative.cli.recipes.results import DONE, FAILED, Row, Sample, master_table, metric_names
from lit_narrative.cli.recipes.statistics import group_rows, summary_table, text_table
from lit_narrative.report.intervals import student

BASELINE = ("arm", "base")


def row(
    arm: str, seed: int | None, scores: Sequence[float], adapter: tuple[str, ...] = ("none",), **other: float
) -> Row:
    """A run whose metric ``reward`` is the mean of its samples' scores."""
    samples = [Sample(f"p{place}", "text", {"reward": score}) for place, score in enumerate(scores)]
    metrics = {"reward": sum(scores) / len(scores), **other}
    values = {"arm": (arm,), "adapter": adapter}
    return Row(f"{arm}_{'+'.join(adapter)}_{seed}", values, seed, status=DONE, metrics=metrics, samples=samples)


def test_more_prompts_do_not_hide_what_differs_between_seeds() -> None:
    prompts = np.random.default_rng(0).normal(0, 0.01, 500)
    rows = [row("base", seed, (prompts + seed).tolist()) for seed in range(4)]
    result = group_rows(rows, ["reward"], None)[0].estimates["reward"]
    assert result.seeds and result.prompts and result.interval == result.seeds
    assert result.prompts[1] - result.prompts[0] == pytest.approx(4 * 0.01 / np.sqrt(500), rel=0.1)
    assert result.seeds == pytest.approx(student([seed + prompts.mean() for seed in range(4)]))
    assert result.seeds[1] - result.seeds[0] > 4


def test_differences_are_within_seeds_and_prompts() -> None:
    prompts = [0.0, 0.3, 0.9, 0.1]
    rows = [row("base", seed, [score + seed for score in prompts]) for seed in (1, 2, 3)]
    rows += [row("pplm", seed, [score + seed + 0.1 for score in prompts]) for seed in (1, 2, 4)]
    base, pplm = group_rows(rows, ["reward"], BASELINE)
    assert not base.differences
    gap, mean = pplm.differences["reward"], pplm.estimates["reward"]
    assert gap.count == 2 and mean.count == 3
    assert gap.mean == pytest.approx(0.1) and gap.seeds == pytest.approx((0.1, 0.1))
    assert gap.prompts == pytest.approx((0.1, 0.1))
    assert mean.interval and mean.interval[1] - mean.interval[0] > 1
    assert mean.std == pytest.approx(np.std([1, 2, 4], ddof=1))


def test_a_baseline_that_stands_for_several_values_serves_each() -> None:
    rows = [row("base", 1, [0.0, 1.0], ("none", "lora"))]
    rows += [row("pplm", 1, [0.5, 1.0], (adapter,)) for adapter in ("none", "lora")]
    groups = group_rows(rows, ["reward"], BASELINE)
    assert [group.differences["reward"].mean for group in groups[1:]] == [0.25, 0.25]


@pytest.mark.parametrize("other", [[Sample("else", "", {"reward": 0.5})], [Sample("p0", "", {})], []])
def test_without_scores_of_the_same_prompts_there_is_no_interval_over_them(other: list[Sample]) -> None:
    rows = [row("base", 1, [0.5]), Row("x", {"arm": ("base",), "adapter": ("none",)}, 2, status=DONE)]
    rows[1] = Row("x", rows[0].values, 2, status=DONE, metrics={"reward": 0.7}, samples=other)
    result = group_rows(rows, ["reward"], None)[0].estimates["reward"]
    assert (result.prompts, result.count) == (None, 2)
    assert result.interval == pytest.approx((0.6 - 12.706 * 0.1, 0.6 + 12.706 * 0.1), abs=1e-3)


def test_scores_that_are_not_what_the_metric_is_the_mean_of_are_left_alone() -> None:
    rows = [row("base", seed, [0.0, 1.0]) for seed in (1, 2)]
    rows = [
        Row(one.key, one.values, one.seed, status=DONE, metrics={"reward": 0.9}, samples=one.samples) for one in rows
    ]
    assert group_rows(rows, ["reward"], None)[0].estimates["reward"].prompts is None


def test_a_small_figure_is_not_printed_as_nothing() -> None:
    (group,) = group_rows([row("base", 1, [0.5], lr=1e-5, zero=0.0)], ["lr", "zero"], None)
    assert text_table([group], ["reward", "lr", "zero"]).splitlines()[1].split()[-2:] == ["1e-05", "0.000"]


def test_failed_runs_and_figures_that_are_no_numbers_do_not_count() -> None:
    rows = [row("base", seed, [0.5], loss=loss) for seed, loss in ((1, 2.0), (2, math.nan), (3, math.inf))]
    rows.append(Row("bad", rows[0].values, 4, status=FAILED, error="no", metrics={}))
    (group,) = group_rows(rows, metric_names(rows), BASELINE)
    assert group.estimates["loss"].count == 1 and group.estimates["loss"].mean == 2.0
    assert group.estimates["reward"].count == 3


def test_tables_have_one_header_and_empty_cells() -> None:
    rows = [
        row("base", None, [0.5], ("none", "lora")),
        Row("bad", {"arm": ("pplm",), "adapter": ("none",)}, error="a\nb"),
    ]
    names = metric_names(rows, ["zeta", "reward"])
    assert names == ["reward"]
    master = master_table(rows, names).splitlines()
    assert master[0] == "arm,adapter,seed,num_prompts,num_samples,status,error,seconds,digest,version,commit,reward"
    assert master[1] == "base,none+lora,,,1,done,,,,,,0.5"
    groups = group_rows(rows, names, BASELINE)
    assert summary_table(groups, names).splitlines() == [
        "arm,adapter,num_prompts,reward_mean,reward_std,reward_count,reward_ci_low,reward_ci_high,reward_t_low,reward_t_high",
        "base,none+lora,,0.5,,1,,,,",
        "pplm,none,,,,0,,,,",
    ]
