import json
from pathlib import Path

import pytest

from lit_narrative.errors import UserError
from lit_narrative.report.run_folder import read_curves
from lit_narrative.tasks.storyworld.report.reader import read_run, read_training_samples
from tests.tasks.storyworld.report.make_run import CYCLES, FINAL, STEPS, edit_json


def test_a_whole_run_is_read(out: Path) -> None:
    run = read_run(out)
    assert run.after.outcome.level.components == FINAL
    assert run.before.outcome.unique_skeleton == 0.22 and run.corpus is not None
    assert list(run.jobs) == ["sft", "cycle"]
    assert run.folder.seconds == {"sft": 62.0, "test_sft": 9.5, "cycle": 120.0, "test_final": 10.0}
    assert len(run.jobs["cycle"].curves["reward"]) == CYCLES * STEPS
    assert len(run.jobs["cycle"].cycles) == CYCLES and run.jobs["cycle"].cycles[2].significant == 3
    assert "GRPOModule" in (run.jobs["cycle"].config or "")
    assert len(run.after.samples) == 16 and run.after.samples[0].prompt


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no folder '.*nowhere'.*runs/storyworld"):
        read_run(tmp_path / "nowhere")


@pytest.mark.parametrize("job", ["test_sft", "test_final"])
def test_a_missing_test_is_named_with_the_command_that_makes_it(out: Path, job: str) -> None:
    (out / job / "verifiers" / "test.json").unlink()
    with pytest.raises(UserError, match=rf"{job}/verifiers/test\.json' is missing.*lit-narrative run"):
        read_run(out)


def test_what_is_optional_may_be_missing(out: Path) -> None:
    for path in sorted(out.glob("**/*"), reverse=True):
        if path.is_file() and path.name != "test.json":
            path.unlink()
    run = read_run(out)
    assert not run.jobs and not run.before.samples and run.after.outcome.level.reward > 0


def test_a_run_of_an_earlier_release_has_the_original_total_under_its_former_name(out: Path) -> None:
    path = out / "test_final" / "verifiers" / "test.json"
    summary = json.loads(path.read_text("utf-8"))
    total = summary.pop("original_total")
    path.write_text(json.dumps({**summary, "seed_total": total}), "utf-8")
    assert read_run(out).after.outcome.level.original_total == total


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reward": float("nan")}, "'reward' must be a finite number, not nan"),
        ({"reward": "high"}, "'reward' must be a finite number, not 'high'"),
        ({"valid_json": True}, "'valid_json' must be a finite number, not True"),
        ({"reward_ci": [0.1]}, "'reward_ci' must be two finite numbers"),
        ({"components": [1]}, "'components' must be an object, not list"),
        ({"n": 0}, "'n' must be at least 1"),
    ],
)
def test_a_figure_that_is_none_is_named(out: Path, change: dict[str, object], message: str) -> None:
    path = out / "test_final" / "verifiers" / "test.json"
    edit_json(path, **change)
    with pytest.raises(UserError) as error:
        read_run(out)
    assert message in str(error.value) and str(path) in str(error.value)


def test_a_broken_file_is_named(out: Path) -> None:
    (out / "test_sft" / "samples" / "test.jsonl").write_text(
        '{"prompt": "a", "text": "b", "reward": 1}\n{"prom', "utf-8"
    )
    with pytest.raises(UserError, match=r"test\.jsonl, line 2 is not valid JSON"):
        read_run(out)


def test_a_file_of_another_shape_is_named(out: Path) -> None:
    (out / "test_sft" / "verifiers" / "test.json").write_text("[]", "utf-8")
    with pytest.raises(UserError, match=r"test\.json must be an object, not list"):
        read_run(out)


def test_curves_leave_out_what_has_no_place_on_a_chart(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,epoch,kl,loss\n3,0,nan,1.5\n1,0,0.5,\n2,0,inf,0.5\n", "utf-8")
    curves = read_curves(path)
    assert curves["kl"] == ((1, 0.5),) and curves["loss"] == ((2, 0.5), (3, 1.5))


@pytest.mark.parametrize(("table", "column"), [("step,kl\n1,high\n", "kl"), ("kl\n1\n", "step")])
def test_a_bad_cell_is_named(tmp_path: Path, table: str, column: str) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(table, "utf-8")
    with pytest.raises(UserError, match=rf"metrics\.csv: column '{column}'"):
        read_curves(path)


def test_values_that_were_not_measured_are_none(out: Path) -> None:
    path = out / "cycle" / "sae" / "cycle_000" / "features.json"
    edit_json(path, readout={"sae": None, "raw": 0.6}, density=[0.1, None, float("nan")], matched_cosine=None)
    cycle = read_run(out).jobs["cycle"].cycles[0]
    assert cycle.readout == {"raw": 0.6} and cycle.density == (0.1,) and cycle.matched_cosine is None


def test_significant_features_beyond_the_list_are_counted(out: Path) -> None:
    edit_json(out / "cycle" / "sae" / "cycle_001" / "features.json", significant=21)
    assert read_run(out).jobs["cycle"].cycles[1].significant == 21


def test_a_job_that_has_not_finished_has_no_time(out: Path) -> None:
    edit_json(out / "cycle" / "job.json", finished=None)
    assert list(read_run(out).folder.seconds) == ["sft", "test_sft", "test_final"]


def test_the_table_of_rollouts_is_read(out: Path) -> None:
    first, second, third = read_run(out).jobs["cycle"].rollouts
    assert (first.step, first.advantage, first.finished) == (CYCLES * STEPS, 0.87, True)
    assert first.rewards["feature_quality"] == 0.41 and first.reward == pytest.approx(0.7175)
    assert (second.advantage, second.finished) == (-0.87, False)
    assert third.advantage is None and "feature_quality" not in third.rewards and "valid_json" in third.rewards
    assert read_run(out).jobs["sft"].rollouts == ()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("step,prompt,text,reward,finished\n", None),
        ("step,prompt,text,reward,finished\n1,a,b,0.5,True\n", "column 'advantage' is missing"),
        ("step,prompt,text,reward,advantage,finished\n1,a,b,high,0,True\n", "column 'reward' holds 'high'"),
    ],
)
def test_a_damaged_table_of_rollouts_is_named(tmp_path: Path, table: str, message: str | None) -> None:
    path = tmp_path / "train.csv"
    path.write_text(table, "utf-8")
    if message is None:
        assert read_training_samples(path) == []
    else:
        with pytest.raises(UserError, match=rf"train\.csv: {message}"):
            read_training_samples(path)
