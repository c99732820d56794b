"""Several seeds of a storyworld run: rows, means, and intervals over seeds."""

import json
import shutil
from pathlib import Path
from statistics import fmean

import pytest

from lit_narrative.errors import UserError
from lit_narrative.report.intervals import student
from lit_narrative.report.page import build_page, write_report
from lit_narrative.tasks.storyworld.report.page import make_report, report_on
from lit_narrative.tasks.storyworld.report.reader import read_run
from lit_narrative.tasks.storyworld.report.run import Run
from lit_narrative.tasks.storyworld.report.seeds import measures, verdict
from lit_narrative.tasks.storyworld.report.summary import summarise
from tests.report.check_page import ATTACK, check
from tests.tasks.storyworld.report.make_run import FINAL, SFT, edit_json, make_run, total

GAINS = (0.02, 0.06)
"""What RL adds beyond the made run's gain, seed by seed."""


@pytest.fixture
def seeds(tmp_path: Path) -> Path:
    """A recipe's folder with two seeds, the second better."""
    for seed, gain in enumerate(GAINS):
        folder = make_run(tmp_path / "storyworld" / f"seed_{seed}", seed)
        edit_json(folder / "test_final" / "verifiers" / "test.json", reward=total(FINAL) + gain)
    note = {"recipe": "mine.yaml", "seeds": [0, 1], "set": []}
    (tmp_path / "storyworld" / "recipe.json").write_text(json.dumps(note))
    return tmp_path / "storyworld"


def test_means_over_seeds_have_students_interval(seeds: Path) -> None:
    summary = make_report(seeds).summary
    changes = [total(FINAL) + gain - total(SFT) for gain in GAINS]
    over = summary["over_seeds"]["reward"]
    assert over["change"]["mean"] == pytest.approx(fmean(changes))
    assert over["change"]["interval"] == pytest.approx(student(changes))
    assert over["sft"] == {"mean": pytest.approx(total(SFT)), "interval": pytest.approx([total(SFT)] * 2)}
    assert over["final"]["mean"] == pytest.approx(total(FINAL) + fmean(GAINS))
    assert summary["over_seeds"]["components/secrets"]["final"]["mean"] == FINAL["secrets"]


def test_each_seed_has_its_row_its_summary_and_its_whole_page(seeds: Path) -> None:
    report = make_report(seeds)
    page = build_page(seeds, report)
    checker = check(page)
    assert {anchor for anchor in checker.anchors if not anchor.startswith("#")} == {
        f"seed_{seed}/report.html" for seed in (0, 1)
    }
    for seed in (0, 1):
        run = read_run(seeds / f"seed_{seed}")
        assert report.summary["seeds"][str(seed)] == summarise(run)
        assert (seeds / f"seed_{seed}" / "report.html").read_text() == build_page(run.folder.out, report_on(run))
        assert f'<td class="n">{total(FINAL) + GAINS[seed]:.3f}</td>' in page
        command = f"lit-narrative run mine.yaml --out {seeds} --seed {seed}</pre>"
        assert command in (seeds / f"seed_{seed}" / "report.html").read_text()
    assert f"lit-narrative run mine.yaml --out {seeds} --seed 0 1</pre>" in page
    assert f"--config {seeds}/seed_0/cycle/config.yaml" in page and "<code>seed_1/cycle</code> 120 s" in page


def test_a_change_that_two_seeds_do_not_settle_is_not_claimed(seeds: Path) -> None:
    runs = {f"seed {seed}": read_run(seeds / f"seed_{seed}") for seed in (0, 1)}
    sentences = verdict(runs)
    change = measures(runs)["reward"].change
    assert change[1] is not None and change[1][0] < 0 < change[1][1]
    assert "did not change measurably" in sentences[0] and "under 2 of 2 seeds" in sentences[1]
    edit_json(seeds / "seed_1" / "test_final" / "verifiers" / "test.json", reward=total(FINAL) + GAINS[0] + 1e-3)
    assert "rose" in verdict({**runs, "seed 1": read_run(seeds / "seed_1")})[0]


def test_a_seed_that_is_not_tested_yet_is_left_out_and_a_half_tested_one_is_named(seeds: Path) -> None:
    for test in ("test_sft", "test_final"):
        shutil.rmtree(seeds / "seed_1" / test)
        if test == "test_sft":
            with pytest.raises(UserError, match=r"seed_1/test_sft/verifiers/test\.json' is missing"):
                make_report(seeds)
    report = make_report(seeds)
    assert report.summary["seeds"].keys() == {"0"}
    assert report.summary["over_seeds"]["reward"]["change"]["interval"] is None
    page = build_page(seeds, report)
    check(page)
    assert "One seed has been tested" in page and "None" not in page


def test_hostile_names_are_escaped(seeds: Path) -> None:
    plain = check(build_page(seeds, make_report(seeds))).tags
    for seed in (0, 1):
        for test in ("test_sft", "test_final"):
            path = seeds / f"seed_{seed}" / test / "verifiers" / "test.json"
            edit_json(path, components={**SFT, ATTACK: 0.5})
    checker = check(write_report(seeds, make_report(seeds)).read_text())
    assert not checker.tags.keys() - plain.keys() and "onerror" not in checker.attributes


def test_one_seed_in_the_folder_itself_has_the_page_that_it_had(run: Run, out: Path) -> None:
    assert make_report(out).summary == summarise(run)
