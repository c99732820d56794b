"""The page and the summary of a verbalize run."""

import json
import re
from pathlib import Path

import pytest

from lit_narrative.cli.commands.report import report
from lit_narrative.errors import UserError
from lit_narrative.files import write_json
from lit_narrative.tasks.verbalize.report.page import chosen, marked
from lit_narrative.tasks.verbalize.report.run import Explained, read_verbalize
from tests.tasks.verbalize.report.make_verbalize_run import make_verbalize_run

KEYS = (
    "fve", "fve_frozen", "floor_constant", "teacher", "nearest_neighbour", "shuffled", "mean_activation", "text_only",
    "no_activation", "privileged_gain", "claims_precision", "claims_recall", "position_match", "copied_bits",
)  # fmt: skip


def made(folder: Path) -> tuple[str, dict]:  # type: ignore[type-arg]
    report(str(folder))
    return (folder / "report.html").read_text(), json.loads((folder / "summary.json").read_text())


def test_summary_has_every_figure_with_its_interval_under_each_seed_and_pooled(three_seeds: Path) -> None:
    _, summary = made(three_seeds)
    assert list(summary["seeds"]) == ["0", "1", "2"]
    for place in [*summary["seeds"].values(), summary["pooled"]]:
        for actor in ("sft", "final"):
            for key in KEYS:
                low, high = place[actor][f"{key}_ci"]
                assert low <= place[actor][key] <= high, key
    final = summary["pooled"]["final"]
    assert final["causal_shift"] == pytest.approx(0.4) and final["seeds"] == 3
    assert summary["pooled"]["change"]["fve"] == pytest.approx(final["fve"] - summary["pooled"]["sft"]["fve"])
    assert summary["pooled"]["change"]["fve_ci"][0] > 0


def test_privileged_gain_is_over_the_best_control(three_seeds: Path) -> None:
    _, summary = made(three_seeds)
    for seed in summary["seeds"].values():
        final = seed["final"]
        best = max(final[name] for name in ("shuffled", "mean_activation", "text_only", "no_activation"))
        assert final["privileged_gain"] == pytest.approx(final["fve"] - best, abs=1e-5)
        assert "fve" in seed["text_only"] and "privileged_gain" not in seed["text_only"]


def test_one_seed_has_intervals_over_documents_and_none_over_seeds(one_seed: Path) -> None:
    page, summary = made(one_seed)
    assert summary["pooled"]["final"]["fve_ci"] is None
    assert summary["seeds"]["this run"]["final"]["fve_ci"] is not None
    assert "another seed may come out otherwise" in page


def test_page_shows_examples_controls_and_floors(three_seeds: Path) -> None:
    page, _ = made(three_seeds)
    assert page.count("<mark>") == 8
    for words in (
        "Privileged gain",
        "Constant answer",
        "Nearest neighbour",
        "frozen critic",
        "Prefix curve",
        "(wrong)",
    ):
        assert words in page, words
    assert "—" not in re.sub(r"<style>.*?</style>", "", page, flags=re.S)


def test_what_a_model_wrote_is_escaped(one_seed: Path) -> None:
    for path in one_seed.glob("test_*/eval/test.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows:
            row |= {
                "explanation": "<script>alert(1)</script>\u202e",
                "source": "a <img src=x> b",
                "right": ["<b>x</b>"],
            }
        path.write_text("\n".join(map(json.dumps, rows)))
    page, _ = made(one_seed)
    assert "<script>alert" not in page and "<img src" not in page and "<b>x</b>" not in page and "\u202e" not in page


def test_examples_go_from_worst_to_best() -> None:
    rows = [Explained("s", "e", "a", "", (), (), value) for value in (0.5, -1.0, 0.9, None, 0.1)]
    assert chosen(rows, 3) == [3, 4, 2] and chosen(rows, 9) == [3, 1, 4, 0, 2] and chosen([]) == []


@pytest.mark.parametrize(("source", "expected"), [("a b c", ("a b ", "c")), ("one", ("", "one")), ("", ("", ""))])
def test_the_last_word_is_marked(source: str, expected: tuple[str, str]) -> None:
    assert marked(source) == expected


def test_a_run_without_controls_or_reinforcement_is_still_reported(tmp_path: Path) -> None:
    page, summary = made(make_verbalize_run(tmp_path / "run", actors=("sft",)))
    assert (
        "privileged_gain" in summary["seeds"]["this run"]["sft"]
        and "text_only" not in summary["seeds"]["this run"]["sft"]
    )
    assert "after supervised training" in page


def test_folders_that_cannot_be_reported(one_seed: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no test of an actor"):
        read_verbalize(tmp_path)
    path = one_seed / "test_grpo" / "eval" / "test.json"
    record = json.loads(path.read_text())
    record["splits"]["test"]["rows"]["document"][0] = "another"
    write_json(path, record)
    with pytest.raises(UserError, match="the rows of set 'test' are not those of"):
        read_verbalize(one_seed)
    (one_seed / "test_sft" / "eval" / "test.jsonl").unlink()
    with pytest.raises(UserError, match="is missing"):
        read_verbalize(one_seed)
