"""The page and the summary of a style run."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lit_narrative.cli.commands.report import report
from lit_narrative.errors import UserError
from lit_narrative.files import write_json
from lit_narrative.tasks.style.report.run import ARMS, read_style
from lit_narrative.tasks.style.report.summary import alarm
from tests.tasks.style.report.make_style_run import make_style_run

KEYS = ("judge_a", "judge_b", "topic_swap", "copied_span", "content", "completeness", "diversity", "slop")


def made(folder: Path) -> tuple[str, dict[str, Any]]:
    report(str(folder))
    return (folder / "report.html").read_text(), json.loads((folder / "summary.json").read_text())


def test_summary_has_every_figure_of_every_arm_with_its_interval_under_each_seed_and_pooled(three_seeds: Path) -> None:
    _, summary = made(three_seeds)
    assert list(summary["seeds"]) == ["0", "1", "2"]
    for place in [*summary["seeds"].values(), summary["pooled"]]:
        for arm in ARMS:
            for key in KEYS:
                low, high = place[arm][f"{key}_ci"]
                assert low - 1e-9 <= place[arm][key] <= high + 1e-9, (arm, key)
        for judge in ("judge", "judge_b"):
            books = place["judges"][judge]
            beside = [
                found[name] for found in (books, books["authors"]) for name in ("delta", "function_words", "length")
            ]
            for figures in (books, books["authors"], *beside):
                assert all(f"{key}_ci" in figures for key in ("auroc", "auroc_masked", "spearman"))
    pooled = summary["pooled"]
    assert pooled["grpo"]["seeds"] == 3
    assert pooled["change"]["judge_b"] == pytest.approx(pooled["grpo"]["judge_b"] - pooled["sft"]["judge_b"], abs=1e-5)
    assert pooled["change"]["judge_b_ci"][0] > 0
    assert pooled["alarm"] is False
    assert (pooled["judges"]["judge"]["fit"], pooled["judges"]["judge_b"]["fit"]) == (1.0, 0.0)


def test_the_change_is_of_the_same_prompts(one_seed: Path) -> None:
    _, summary = made(one_seed)
    seed = summary["seeds"]["this run"]
    low, high = seed["change"]["judge_a_ci"]
    assert low < seed["change"]["judge_a"] < high
    assert seed["change"]["judge_a"] == pytest.approx(seed["grpo"]["judge_a"] - seed["sft"]["judge_a"], abs=1e-5)
    assert summary["pooled"]["grpo"]["judge_a_ci"] is None  # one seed says nothing of another
    assert seed["grpo"]["judge_a_ci"] is not None


def test_the_alarm_needs_both_judges_and_their_intervals() -> None:
    rising, falling = (0.2, (0.1, 0.3)), (-0.2, (-0.3, -0.1))
    assert alarm([{"judge_a": rising, "judge_b": falling}]) is True
    assert alarm([{"judge_a": rising, "judge_b": rising}]) is False
    assert alarm([{"judge_a": rising}]) is None
    assert alarm([{"judge_a": rising, "judge_b": (0.1, None)}]) is None


def test_a_page_that_raises_the_alarm_says_so(three_seeds: Path) -> None:
    for path in three_seeds.glob("seed_*/test_grpo/eval/test.json"):
        record = json.loads(path.read_text())
        columns = record["splits"]["test"]["rows"]
        columns["judge_b"] = (np.array(columns["judge_b"]) * 0.5).tolist()
        write_json(path, record)
    page, summary = made(three_seeds)
    assert summary["pooled"]["alarm"] is True
    assert "Alarm: judge A rose and judge B did not" in page


def test_page_shows_arms_judges_curves_and_examples(three_seeds: Path) -> None:
    page, _ = made(three_seeds)
    for words in (
        "base, sample in the prompt",
        "best of n",
        "Longest copied span",
        "Topic swap",
        "function words",
        "Fit to be trained against in 3 of 3",
        "Over training",
        "Along the text",
        "The same prompts, arm by arm",
        "Seed by seed",
    ):
        assert words in page, words
    assert "—" not in re.sub(r"<style>.*?</style>", "", page, flags=re.S)


def test_what_a_model_wrote_is_escaped(one_seed: Path) -> None:
    for path in one_seed.glob("test_*/eval/test.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows:
            row |= {"text": "<script>alert(1)</script>\u202e", "plot": "a <img src=x> b"}
        path.write_text("\n".join(map(json.dumps, rows)))
    page, _ = made(one_seed)
    for hostile in ("<script>alert", "<img src", "<b>says", "\u202e"):
        assert hostile not in page


def test_a_run_of_one_arm_is_still_reported(tmp_path: Path) -> None:
    page, summary = made(make_style_run(tmp_path / "run", arms=("sft",)))
    assert "change" not in summary["pooled"]
    assert "alarm" not in summary["pooled"]
    assert "after supervised training" in page


def test_folders_that_cannot_be_reported(one_seed: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no test of a model"):
        read_style(tmp_path)
    path = one_seed / "test_grpo" / "eval" / "test.json"
    record = json.loads(path.read_text())
    record["splits"]["test"]["rows"]["document"][0] = "another"
    write_json(path, record)
    with pytest.raises(UserError, match="the prompts of 'grpo' are not those of"):
        read_style(one_seed)
    (one_seed / "test_sft" / "eval" / "test.jsonl").unlink()
    with pytest.raises(UserError, match="is missing"):
        read_style(one_seed)
