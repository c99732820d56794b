"""A sweep run for real, killed and resumed; and its tables from what runs leave."""

import csv
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import validate

from lit_narrative.cli.commands.sweep import sweep
from lit_narrative.cli.main import main
from lit_narrative.cli.recipes.results import shown_metrics
from lit_narrative.cli.recipes.sweep import read_sweep
from lit_narrative.errors import UserError
from tests.cli.recipes.make_sweep import leave_failure, leave_results, write_chain, write_sweep

COLD = {"model.init_args.sampling.temperature": 0.1}
BROKEN = {"model.init_args.sampling.max_new_tokens": 0}


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def untimed(path: Path) -> list[dict[str, str]]:
    return [{name: cell for name, cell in row.items() if name not in {"seconds", "commit"}} for row in table(path)]


def start(path: Path, running: str) -> tuple[subprocess.Popen[bytes], int]:
    """Start a sweep by itself, and wait until a run is on its way; that run's process."""
    command = [sys.executable, "-m", "lit_narrative", "sweep", str(path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    log, until = path.parent / "out" / "raw" / running / "log.txt", time.monotonic() + 150
    while not (log.exists() and children.read_text()) and time.monotonic() < until:
        time.sleep(0.05)
    return process, int(children.read_text().split()[0])


def kill_while(path: Path, running: str) -> None:
    """Start a sweep and kill it, as the system does, while a run is on its way."""
    process, child = start(path, running)
    with process:
        process.kill()
    until = time.monotonic() + 10
    while _runs(child) and time.monotonic() < until:
        time.sleep(0.05)
    assert not _runs(child)


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_runs_share_what_they_build_on_and_fall_with_what_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = {"all.trainer.max_steps": 1, "all.trainer.limit_val_batches": 0}
    saver = [{"class_path": "ModelCheckpoint", "init_args": {"save_last": True}}]
    fits = {f"{name}.trainer.callbacks": saver for name in ("start", "learn")}
    arms = {
        "base": {},
        "bad": {"learn.model.init_args.sampling.max_new_tokens": 0},
        "cold": {"exam.model.init_args.sampling.temperature": 0.1},
    }
    path = write_chain(tmp_path, seeds=[1], axes={"arm": arms}, overrides={**few, **fits})
    with pytest.raises(SystemExit) as ended:
        main(["sweep", str(path), "--workers", "2"])
    assert ended.value.code == 1
    rows = {row["arm"]: row for row in table(tmp_path / "out" / "master_results.csv")}
    assert {arm: row["status"] for arm, row in rows.items()} == {"base": "done", "bad": "failed", "cold": "done"}
    assert re.search(r"its job 'raw/bad__s1/learn' failed: .*max_new_tokens", rows["bad"]["error"])
    # The start ran once, and `cold` tests the model of `base`.
    assert sorted(path.name for path in (tmp_path / "out").glob("*/*/*/checkpoints")) == ["checkpoints"]
    assert (tmp_path / "out" / "shared" / "start__s1" / "checkpoints" / "last.ckpt").is_file()
    said = capsys.readouterr().out
    assert said.count("shared/start__s1: done") == 1
    # What is done stays; what failed is tried again, and nothing else.
    with pytest.raises(SystemExit):
        main(["sweep", str(path)])
    said = capsys.readouterr().out
    assert "2 done before, 1 to do" in said
    assert "shared/start__s1" not in said


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_sweep_resumes_and_a_failing_run_is_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_sweep(
        tmp_path,
        seeds=[1],
        axes={"model": {"tiny": {}}, "arm": {"base": {}, "bad": BROKEN, "cold": COLD}},
        metrics={"avg_reward": "verifiers", "perplexity": "perplexity", "off_topic": "components/off_topic"},
    )
    out = tmp_path / "out"
    kill_while(path, "tiny__bad__s1")
    assert [row["status"] for row in table(out / "master_results.csv")] == ["done", "missing", "missing"]
    first = (out / "raw" / "tiny__base__s1" / "job.json").read_text()

    main(["sweep", str(path), "--only", "tiny__cold__s1"])
    assert [row["status"] for row in table(out / "master_results.csv")] == ["done", "missing", "done"]

    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(["sweep", str(path), "--workers", "2"])
    output = capsys.readouterr()
    assert end.value.code == 1
    assert "2 done before, 1 to do" in output.out
    assert "error: 1 of 3 runs failed: tiny__bad__s1" in output.err
    base, bad, cold = table(out / "master_results.csv")
    assert (out / "raw" / "tiny__base__s1" / "job.json").read_text() == first
    assert bad["status"] == "failed"
    assert bad["error"] == "code 2: error: model.sampling.max_new_tokens=0 must be at least 1"
    assert bad["avg_reward"] == "" and float(base["avg_reward"]) >= 0 <= float(cold["avg_reward"])
    summary = {row["arm"]: row for row in table(out / "analysis_summary.csv")}
    assert {arm: row["perplexity_count"] for arm, row in summary.items()} == {"base": "1", "bad": "0", "cold": "1"}
    assert summary["cold"]["off_topic_ci_low"] != "" == summary["cold"]["off_topic_t_low"]
    assert summary["cold"]["perplexity_diff"] == "0.0"
    page = (out / "by_model" / "tiny" / "report.html").read_text()
    assert "max_new_tokens=0 must be at least 1" in page


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_sweep_ends_with_the_table_of_one_that_was_not(tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    for folder in (killed, whole):
        folder.mkdir()
    paths = {folder: write_sweep(folder) for folder in (killed, whole)}
    kill_while(paths[killed], "tiny__cold__s1")
    for path in paths.values():
        main(["sweep", str(path), "--workers", "2"])
    for name in ("master_results.csv", "analysis_summary.csv"):
        result = untimed(killed / "out" / name)
        assert [{**row, "digest": ""} for row in result] == [
            {**row, "digest": ""} for row in untimed(whole / "out" / name)
        ]


def filled(folder: Path, **changes: Any) -> Path:
    """A sweep whose runs are done, without a process; the last has failed."""
    path = write_sweep(folder, **changes)
    whole = read_sweep(str(path))
    for number, run in enumerate(whole.runs[:-1]):
        leave_results(whole, run, [0.1 * number, 0.5, 0.5, 0.9], distinct_2=0.25 * number)
    leave_failure(whole, whole.runs[-1], "code 1: <script>")
    return path


def test_tables_of_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = filled(
        tmp_path, metrics={"avg_reward": "verifiers", "judged": "judge_perplexity", "distinct_2": "distinct_2"}
    )
    main(["sweep", str(path), "--collect"])
    assert "logged by no run: judge_perplexity" in capsys.readouterr().out
    rows = table(tmp_path / "out" / "master_results.csv")
    assert list(rows[0]) == [
        *(
            "model",
            "arm",
            "seed",
            "num_prompts",
            "num_samples",
            "status",
            "error",
            "seconds",
            "digest",
            "version",
            "commit",
        ),
        *("avg_reward", "distinct_2"),
    ]
    assert [row["status"] for row in rows] == ["done", "done", "done", "failed"]
    assert [row["distinct_2"] for row in rows] == ["0.0", "0.25", "0.5", ""]
    base, cold = table(tmp_path / "out" / "analysis_summary.csv")
    assert (base["avg_reward_count"], cold["avg_reward_count"]) == ("2", "1")
    assert "" not in (base["avg_reward_ci_low"], base["avg_reward_t_low"], base["distinct_2_t_low"])
    assert base["distinct_2_ci_low"] == "" == cold["avg_reward_t_low"]
    assert float(cold["avg_reward_diff"]) == pytest.approx(0.05)
    assert base["avg_reward_diff"] == "" and cold["distinct_2_ci_low"] == ""


def test_a_sweep_of_one_setting_ends_in_a_page_and_a_printed_table_of_what_was_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    axes = {"temperature": {"base": {}, "low": COLD, "none": {"model.init_args.sampling.temperature": 0.0}}}
    path = filled(tmp_path, axes=axes, baseline={"temperature": "base"}, metrics=["verifiers"])
    main(["sweep", str(path), "--collect"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["temperature", "base", "low", "none"]
    assert lines[0].split() == ["temperature", "runs", "verifiers"]
    assert re.fullmatch(r"low +2 of 2 +0\.538 \[.*, .*\]", lines[2]) and lines[3].split()[1:4] == ["1", "of", "2"]
    assert str(tmp_path / "out" / "sweep.html") in lines[4]
    page = (tmp_path / "out" / "sweep.html").read_text()
    assert all(f"</span> {value}</th>" in page for value in ("base", "low", "none"))
    assert "sets them all side by side" in " ".join(page.split()) and "1 metrics more" in " ".join(page.split())
    assert not (tmp_path / "out" / "by_model").exists()
    assert "distinct_2_mean" not in table(tmp_path / "out" / "analysis_summary.csv")[0]
    assert "distinct_2" in table(tmp_path / "out" / "master_results.csv")[0]

    main(["sweep", str(path), "--collect", "--metrics", "distinct_2", "nothing"])
    output = capsys.readouterr().out
    assert output.startswith("logged by no run: nothing")
    assert output.splitlines()[1].split() == ["temperature", "runs", "distinct_2"]


def test_a_misspelt_setting_is_said_before_the_first_run(tmp_path: Path) -> None:
    path = write_sweep(tmp_path, axes={"lr": {"low": {"model.init_args.lrr": 0.1}}}, baseline=None)
    with pytest.raises(UserError, match=r"run 'low__s\d': model: SFTModule has no argument 'lrr'; did you mean 'lr'"):
        sweep(str(path))
    assert not list((tmp_path / "out").glob("raw/*"))


def test_without_a_choice_the_main_metrics_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = filled(tmp_path, metrics=None)
    main(["sweep", str(path), "--collect"])
    assert capsys.readouterr().out.splitlines()[0].split() == ["model", "arm", "runs", "verifiers", "distinct_2"]
    assert (tmp_path / "out" / "by_model" / "tiny" / "report.html").is_file()
    many = ["a/b", "loss", "reward", *(f"m{number}" for number in range(9))]
    assert shown_metrics(many, []) == ["reward", "loss", "m0", "m1", "m2", "m3"]
    assert shown_metrics(many, ["a/b", "other"]) == ["a/b"]
    assert shown_metrics(["x/y", "x/a"], []) == ["x/a", "x/y"]


def test_a_changed_setting_touches_only_its_runs(tmp_path: Path) -> None:
    def states(path: Path, *more: str) -> list[str]:
        main(["sweep", str(path), "--collect", *more])
        return [row["status"] for row in table(tmp_path / "out" / "master_results.csv")]

    axes = {"model": {"tiny": {}}, "arm": {"base": {}, "cold": {"model.init_args.sampling.temperature": 0.2}}}
    assert states(filled(tmp_path)) == ["done", "done", "done", "failed"]
    assert states(write_sweep(tmp_path, axes=axes)) == ["done", "done", "missing", "missing"]
    assert states(write_sweep(tmp_path, seeds=[3, 2])) == ["missing", "done", "missing", "failed"]
    assert states(write_sweep(tmp_path), "--set", "data.init_args.seed=1") == ["missing"] * 4
    with (tmp_path / "tiny.yaml").open("a") as file:
        file.write("# another\n")
    assert states(tmp_path / "tiny_sweep.yaml") == ["missing"] * 4


@pytest.mark.parametrize("named", ["{}", "lit_narrative.rl.rewards.learned:LearnedReward(checkpoint='{}')"])
def test_a_run_depends_on_the_files_that_its_settings_name(tmp_path: Path, named: str) -> None:
    checkpoint = tmp_path / "last.ckpt"
    checkpoint.write_text("old")
    arms = {"base": {}, "cold": {"model.init_args.model": named.format(checkpoint)}}
    path = filled(tmp_path, axes={"arm": arms}, seeds=[1])
    whole = read_sweep(str(path))
    leave_results(whole, whole.runs[1], [1.0])
    checkpoint.write_text("new weights")
    main(["sweep", str(path), "--collect"])
    assert [row["status"] for row in table(tmp_path / "out" / "master_results.csv")] == ["done", "missing"]


# What W&B documents of a grid sweep's configuration (docs.wandb.ai, "Sweep configuration options").
WANDB_FORM = {
    "type": "object",
    "required": ["program", "method", "parameters"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string"},
        "program": {"type": "string"},
        "method": {"enum": ["grid", "random", "bayes"]},
        "command": {"type": "array", "items": {"type": "string"}},
        "parameters": {
            "type": "object",
            "minProperties": 1,
            "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_.-]*$"},
            "additionalProperties": {
                "type": "object",
                "required": ["values"],
                "additionalProperties": False,
                "properties": {"values": {"type": "array", "minItems": 1}},
            },
        },
    },
}


@pytest.mark.usefixtures("fresh_wandb")
def test_an_agent_of_the_wandb_sweeper_fills_the_same_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    path = filled(tmp_path)
    main(["sweep", str(path), "--wandb", str(tmp_path / "wandb.yaml")])
    content = yaml.safe_load((tmp_path / "wandb.yaml").read_text())
    validate(content, WANDB_FORM)
    keys = content["parameters"]["only"]["values"]
    assert keys == ["tiny__base__s1", "tiny__base__s2", "tiny__cold__s1", "tiny__cold__s2"]

    # As an agent makes it: its own functions, then each ${...} replaced by its words.
    words = {**create_sweep_command_args({"args": {"only": {"value": keys[0]}}}), "env": ["/usr/bin/env"]}
    parts = create_sweep_command(content["command"])
    command = [word for part in parts for word in (words[part[2:-1]] if re.match(r"\$\{.*\}$", part) else [part])]
    assert command[:3] == ["/usr/bin/env", "lit-narrative", "sweep"]

    for name, value in {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SWEEP_ID": "abc"}.items():
        monkeypatch.setenv(name, value)
    main(command[2:])
    assert table(tmp_path / "out" / "master_results.csv")[0]["status"] == "done"
    wandb.teardown()  # what is on its way to the file is in it
    (logged,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert b"avg_reward" in logged.read_bytes()


def test_modes_exclude_each_other_and_workers_are_one_or_more(tmp_path: Path) -> None:
    path = str(write_sweep(tmp_path))
    with pytest.raises(UserError, match="exclude each other"):
        sweep(path, only="a", collect=True)
    with pytest.raises(UserError, match="--workers is 0"):
        sweep(path, workers=0)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ending_the_sweep_ends_its_runs(tmp_path: Path) -> None:
    process, child = start(write_sweep(tmp_path, seeds=[1]), "tiny__base__s1")
    with process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
