"""The page of any run: of a single job, of a recipe, of several seeds; and what a hostile sample does to it."""

import json
from pathlib import Path

import pytest

from lit_narrative.cli.commands.report import report
from lit_narrative.errors import UserError
from lit_narrative.files import write_json, write_text
from lit_narrative.report.jobs import holds_jobs, main_first, read_excerpt, read_jobs, thinned
from lit_narrative.report.page import build_page
from lit_narrative.report.run_page import make_report
from tests.report.check_page import ATTACK, check


def make_job(folder: Path, level: float = 0.5, text: str = "a tale") -> Path:
    """What a GRPO job of one's own leaves: a table, settings, samples and rollouts; and a test beside it."""
    table = "\n".join(f"{step},{level + step / 100},{step / 7},,3" for step in range(0, 50, 10))
    write_text(folder / "metrics.csv", f"step,reward,mine/rhymes,val/reward,epoch\n{table}\n50,,,{level},4\n")
    write_text(folder / "config.yaml", "model:\n  class_path: GRPOModule\n")
    row = {"prompt": "Once", "text": text, "rewards": {"rhymes": level, "none": None}, "advantage": float(level)}
    write_text(folder / "samples" / "val.jsonl", json.dumps(row) + "\n")
    write_text(folder / "rollouts" / "cycle_000.jsonl", json.dumps({**row, "text": "an earlier cycle"}) + "\n")
    write_text(folder / "rollouts" / "cycle_001.jsonl", json.dumps({**row, "text": "rolled out"}) + "\n")
    return folder


def make_test(folder: Path, level: float) -> Path:
    write_text(folder / "metrics_test.csv", f"step,test/reward,test/n\n0,{level},8\n")
    return folder


def test_a_single_job_of_ones_own_has_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = make_job(tmp_path / "mine")
    report(str(out))
    assert capsys.readouterr().out == f"report: {out / 'report.html'}\n"
    page = (out / "report.html").read_text("utf-8")
    check(page)
    assert "a tale" in page and "rolled out" in page and "an earlier cycle" not in page
    assert page.index("<figcaption>reward") < page.index("<figcaption>mine/rhymes")
    assert "<figcaption>val/reward" not in page and ">val/reward</th>" in page  # a single point is no curve
    assert "No test, validation or prediction" in page and "class_path: GRPOModule" in page
    assert "95% interval" not in page
    assert "The last value of each metric" not in page  # without a test these are the figures, in the open
    assert "<code>config.yaml</code>" in page and f"--config {out}/config.yaml" in page
    assert "advantage <b>0.5</b>" in page
    summary = json.loads((out / "summary.json").read_text("utf-8"))
    assert summary["jobs"]["."]["last"]["reward"] == pytest.approx(0.9)


def test_a_recipe_of_ones_own_over_several_seeds(tmp_path: Path) -> None:
    out = tmp_path / "mine"
    for seed, level in ((2, 0.2), (10, 0.4)):
        make_job(out / f"seed_{seed}" / "learn", level)
        make_test(out / f"seed_{seed}" / "exam", level)
        status = {"digest": "", "finished": 1.0, "seconds": 5.0}
        write_json(out / f"seed_{seed}" / "learn" / "job.json", status)
    write_text(out / "seed_2" / "learn" / "verifiers" / "test.json", "{}")  # as any job with Verifiers leaves it
    folder, jobs = read_jobs(out)
    assert [job.place for job in jobs] == ["seed_2/learn", "seed_2/exam", "seed_10/learn", "seed_10/exam"]
    page = build_page(out, make_report(out))
    check(page)
    assert "with 2 seeds" in " ".join(page.split()) and "Student's t" in page
    # 0.3 ± 12.71 · 0.1: of two seeds
    assert '>reward</th><td class="n">0.3<span class="under">−0.9706 to 1.571</span></td>' in page
    assert page.count("seed 10</li>") >= 2  # the legend of each curve
    assert folder.seconds == {"seed_2/learn": 5.0, "seed_10/learn": 5.0}
    report(str(out))
    assert (out / "report.html").is_file()


def test_samples_are_hostile(tmp_path: Path) -> None:
    out = make_job(tmp_path / "mine", text=ATTACK)
    checked = check(build_page(out, make_report(out)))
    assert "script" not in checked.tags and "onerror" not in checked.attributes
    file = out / "samples" / "val.jsonl"
    file.write_bytes(b'{"text": 3}\n[1]\n\xff\xfe{\n' + b"[" * 5000 + b'\n{"text": "fifth"}\n')
    excerpt = read_excerpt(file, "val.jsonl")
    assert (excerpt.samples, excerpt.unreadable) == ((), 4)
    assert "4 of the first lines hold no text" in build_page(out, make_report(out))
    file.write_bytes(b'{"text": "' + b"x" * 2**21 + b'"}\n')
    assert read_excerpt(file, "val.jsonl").samples == ()


def test_what_cannot_be_reported_is_said(tmp_path: Path) -> None:
    assert not holds_jobs(tmp_path)
    with pytest.raises(UserError, match="holds no job with metrics"):
        report(str(tmp_path), report="run")
    write_text(tmp_path / "job" / "metrics.csv", "step,loss\n0,none\n")
    assert holds_jobs(tmp_path)
    with pytest.raises(UserError, match=r"metrics.csv: column 'loss' holds 'none'"):
        report(str(tmp_path))


def test_metrics_are_put_in_order_and_long_curves_thinned() -> None:
    names = ["epoch", "z", "rewards/a/mean", "val/loss", "loss", "reward"]
    assert main_first(names) == ["reward", "rewards/a/mean", "loss", "val/loss", "z"]
    curve = tuple((float(step), 1.0) for step in range(1001))
    points = thinned(curve, 300)
    assert len(points) <= 301 and points[0] == curve[0] and points[-1] == curve[-1]
    assert list(thinned(curve[:2], 300)) == list(curve[:2])
