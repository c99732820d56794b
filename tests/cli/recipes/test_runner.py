"""A recipe run for real: each job is a process of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from lit_narrative.cli.check import check_jobs
from lit_narrative.cli.commands.run import run
from lit_narrative.cli.main import main
from lit_narrative.cli.recipes.process import Started
from lit_narrative.cli.recipes.recipe import Job
from lit_narrative.cli.recipes.runner import execute
from lit_narrative.errors import UserError
from tests.cli.test_lightning import rows

CLASSES = "tests.cli.test_lightning"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A fit of eight steps, and a test of its checkpoint."""
    trainer = {
        "accelerator": "cpu",
        "max_epochs": 2,
        "log_every_n_steps": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": [{"class_path": "ModelCheckpoint", "init_args": {"save_last": True}}],
    }
    model, data = {"class_path": f"{CLASSES}.TinyModule"}, {"class_path": f"{CLASSES}.TinyData"}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({"trainer": trainer, "model": model, "data": data}))
    config = str(tmp_path / "tiny.yaml")
    jobs = [
        {"name": "learn", "command": "fit", "config": config},
        {"name": "exam", "command": "test", "config": config, "overrides": {"ckpt_path": "${jobs.learn.ckpt}"}},
    ]
    path = tmp_path / "tiny_recipe.yaml"
    path.write_text(yaml.safe_dump({"out": str(tmp_path / "out"), "threads": 1, "jobs": jobs}))
    return path


def states(out: str) -> list[str]:
    """Return what the lines ``[1/2] name: state ...`` say, without the seconds."""
    lines = [line.partition(": ")[2] for line in out.splitlines() if line.startswith("[")]
    return [line.partition(" in ")[0].rstrip(" .") for line in lines]


def test_finished_jobs_are_left_out_and_changed_ones_run_again(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    main(["run", str(recipe)])
    assert states(capsys.readouterr().out) == ["fit", "done", "test", "done"]
    assert len(rows(out / "learn" / "metrics.csv")) >= 8
    assert rows(out / "exam" / "metrics_test.csv")

    main(["run", str(recipe)])
    assert states(capsys.readouterr().out) == ["done before,", "done before,"]

    main(["run", str(recipe), "--set", "exam.model.init_args.lr=0.75"])
    again = "test again (changed: setting model.init_args.lr)"
    assert states(capsys.readouterr().out) == ["done before,", again, "done"]
    assert float(rows(out / "exam" / "metrics_test.csv")[0]["test/lr"]) == 0.75
    noted = json.loads((out / "recipe.json").read_text())
    assert noted == {"recipe": str(recipe), "seeds": [], "set": ["exam.model.init_args.lr=0.75"]}


@pytest.mark.slow
def test_seeds_run_side_by_side_and_one_that_is_done_is_left_out(
    recipe: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    content, out = yaml.safe_load(recipe.read_text()), tmp_path / "out"
    recipe.write_text(yaml.safe_dump({**content, "seeds": [0, 1], "workers": 2}))
    command = ["run", str(recipe), "--set", "learn.trainer.max_epochs=1"]
    main(command)
    output = capfd.readouterr().out.splitlines()
    assert {line.split(": ")[0] for line in output[:2]} == {"[1/4] seed_0/learn", "[3/4] seed_1/learn"}
    assert not any("Trainer.fit" in line for line in output)
    for seed in (0, 1):
        lines = [line for line in output if line.startswith("[") and f"seed_{seed}/" in line]
        assert [line.split(": ")[1].split()[0] for line in lines] == ["fit", "done", "test", "done"]
        assert "Trainer.fit" in (out / f"seed_{seed}" / "learn" / "log.txt").read_text()
        assert yaml.safe_load((out / f"seed_{seed}" / "learn" / "config.yaml").read_text())["seed_everything"] == seed
        assert rows(out / f"seed_{seed}" / "exam" / "metrics_test.csv")
    main([*command, "--seed", "1"])
    assert states(capfd.readouterr().out) == ["done before,", "done before,"]


@pytest.mark.slow
def test_a_failed_job_ends_those_beside_it(recipe: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    content = yaml.safe_load(recipe.read_text())
    bad = {**content["jobs"][0], "name": "bad", "overrides": {"model.init_args.width": 0}}
    endless = {**content["jobs"][0], "name": "endless", "overrides": {"trainer.max_epochs": -1}}
    recipe.write_text(yaml.safe_dump({**content, "jobs": [endless, bad]}))
    with pytest.raises(SystemExit) as ended:
        main(["run", str(recipe), "--workers", "2"])
    output = capfd.readouterr().err
    assert f"job 'bad' ended with code {ended.value.code}; '{tmp_path / 'out' / 'bad' / 'log.txt'}' says why" in output
    assert "model.width must be" in (tmp_path / "out" / "bad" / "log.txt").read_text()
    assert json.loads((tmp_path / "out" / "endless" / "job.json").read_text())["finished"] is None


def test_a_negative_seed_is_refused_before_any_job(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--seed is -1; it must be 0 or more"):
        run(str(recipe), seed=[0, -1])
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_failed_job_ends_the_recipe_with_its_code_and_a_killed_fit_resumes(recipe: Path, tmp_path: Path) -> None:
    out, content = tmp_path / "out", yaml.safe_load(recipe.read_text())
    recipe.write_text(yaml.safe_dump({**content, "jobs": content["jobs"][:1]}))
    command = [sys.executable, "-m", "lit_narrative", "run", str(recipe), "--set"]
    stop = f'learn.trainer.callbacks+={{"class_path": "{CLASSES}.StopAt"}}'
    failed = subprocess.run([*command, stop], capture_output=True, text=True)
    assert failed.returncode == 1
    assert "error: job 'learn' ended with code 1; run the same command again to resume" in failed.stderr
    assert json.loads((out / "learn" / "job.json").read_text())["finished"] is None

    (out / "learn" / "kept").touch()
    again = subprocess.run([*command, stop], capture_output=True, text=True)
    assert "resumes from its last checkpoint" in again.stdout
    assert (out / "learn" / "kept").exists()

    changed = subprocess.run([*command, "learn.trainer.max_epochs=1"], capture_output=True, text=True)
    assert changed.returncode == 0, changed.stderr
    assert not (out / "learn" / "kept").exists()
    assert len(rows(out / "learn" / "metrics.csv")) == 4


@pytest.mark.slow
def test_ending_the_recipe_ends_its_job(recipe: Path, tmp_path: Path) -> None:
    content = yaml.safe_load(recipe.read_text())
    recipe.write_text(yaml.safe_dump({**content, "jobs": content["jobs"][:1]}))  # one job is checked by its own process
    endless = ["--set", "learn.trainer.max_epochs=-1"]
    command = [sys.executable, "-m", "lit_narrative", "run", str(recipe), *endless]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        checkpoint = tmp_path / "out" / "learn" / "checkpoints" / "last.ckpt"
        until = time.monotonic() + 240
        while not checkpoint.exists() and time.monotonic() < until:
            time.sleep(0.1)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.send_signal(signal.SIGTERM)  # before anything is asserted: else both processes would go on for ever
        assert process.wait(60) == 128 + signal.SIGTERM
        assert checkpoint.exists()
        child = int(children[0])
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    assert json.loads((tmp_path / "out" / "learn" / "job.json").read_text())["finished"] is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_job_that_is_just_being_started_is_ended_too(tmp_path: Path, number: int) -> None:
    started: list[subprocess.Popen[bytes]] = []

    def begin(job: Job) -> Started:
        started.append(subprocess.Popen(["sleep", "60"], process_group=0))
        signal.raise_signal(number)
        return Started(job, "", started[0], None, time.monotonic())

    job = Job("sleeper", "fit", (), {}, (), None)
    with pytest.raises(SystemExit if number == signal.SIGTERM else KeyboardInterrupt):
        list(execute([job], 1, begin))
    assert started[0].returncode == -signal.SIGTERM


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("to", ["the job", "the recipe alone"])
def test_a_job_that_was_told_to_end_never_counts_as_finished(
    recipe: Path, tmp_path: Path, to: str, number: int
) -> None:
    slowly = f'learn.trainer.callbacks+={{"class_path": "{CLASSES}.Slowly"}}'
    command = [sys.executable, "-m", "lit_narrative", "run", str(recipe), "--set", slowly]
    learn = tmp_path / "out" / "learn"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 60
        while not (learn / "checkpoints" / "last.ckpt").exists() and time.monotonic() < until:
            time.sleep(0.1)
        child = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
        os.kill(child if to == "the job" else process.pid, number)
        message = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + number
    assert json.loads((learn / "job.json").read_text())["finished"] is None
    assert not (tmp_path / "out" / "exam").exists()
    assert "stopped by" in message and "Traceback" not in message
    done = len(rows(learn / "metrics.csv"))
    assert 0 < done < 8
    main(["run", str(recipe), "--set", slowly])
    assert [row["step"] for row in rows(learn / "metrics.csv") if "loss" in row] == [str(step) for step in range(8)]


def test_settings_of_all_jobs_are_checked_before_the_first(
    recipe: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    changes = ["exam.model.init_args.lr=much"]
    with pytest.raises(SystemExit) as ended:
        main(["run", str(recipe), "--set", *changes])
    output = capfd.readouterr()
    assert ended.value.code == 2
    assert "error: job 'exam': model.lr: expected float, got 'much'" in output.err
    assert not (tmp_path / "out" / "learn").exists() and "fit" not in output.out
    # As that process does: to start another takes seconds.
    with pytest.raises(UserError, match="job 'exam': model: TinyModule has no argument 'lrr'"):
        check_jobs({"exam": ["test", f"--config={tmp_path / 'tiny.yaml'}", "--model.init_args.lrr=1"]})


@pytest.mark.slow
def test_folder_of_somebody_else_is_left_alone(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "out" / "learn" / "thesis.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(SystemExit) as end:
        main(["run", str(recipe)])
    assert end.value.code == 2
    assert "not a recipe's" in capsys.readouterr().err
    assert mine.read_text() == "mine"


@pytest.mark.slow
def test_the_main_job_in_small_ends_in_a_report(tmp_path: Path) -> None:
    changes = [
        "sft.trainer.max_steps=60",
        "sft.trainer.val_check_interval=60",
        "sft.data.train_size=1000",
        "cycle.trainer.limit_train_batches=8",
        "cycle.trainer.max_epochs=2",
        "test_sft.data.test_size=32",
        "test_final.data.test_size=32",
    ]
    main(["run", "storyworld", "--out", str(tmp_path / "out"), "--set", *changes])
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert {"reward", "valid_json", "unique", "components"} <= summary["sft"].keys() & summary["final"].keys()
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000


@pytest.mark.slow
def test_the_card_game_in_small_ends_in_a_report(tmp_path: Path) -> None:
    out = tmp_path / "out"
    main(["run", "cards_smoke", "--out", str(out)])
    summary = json.loads((out / "summary.json").read_text())
    assert summary["seeds"]["0"]["policies"].keys() == {"sft", "more", "grpo"}
    assert summary["changes"]["grpo"]["paraphrase"]["seeds"].keys() == {"0"}
    page = (out / "report.html").read_text()
    for link in ("circuits_sft/circuits/circuits.html", "circuits_grpo/comparison.html"):
        assert f'href="seed_0/{link}"' in page and (out / "seed_0" / link).is_file()
