"""The table of metrics: columns that come late, rows that a resumed run takes again, whole files."""

import csv
from pathlib import Path

import pytest
import torch

from lit_narrative.cli.folder import prepare_folder, stage_file
from lit_narrative.cli.run_folder import MetricsTable
from lit_narrative.errors import UserError


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def table(folder: Path, *, keep: bool = False) -> MetricsTable:
    return MetricsTable(str(folder), "metrics.csv", keep=keep)


def test_columns_that_come_late_leave_earlier_rows_empty(tmp_path: Path) -> None:
    metrics = table(tmp_path)
    for row, step in [({"loss": 2.0}, 0), ({"loss": torch.tensor(1.0)}, 1), ({"a": 0.5}, 1), ({"loss": 0.25}, 2)]:
        metrics.log_metrics(row, step)
        metrics.save()
    assert read(tmp_path / "metrics.csv") == [
        {"a": "", "loss": "2.0", "step": "0"},
        {"a": "", "loss": "1.0", "step": "1"},
        {"a": "0.5", "loss": "", "step": "1"},
        {"a": "", "loss": "0.25", "step": "2"},
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_rows_are_appended_while_the_columns_stay(tmp_path: Path) -> None:
    metrics = table(tmp_path)
    metrics.log_metrics({"loss": 2.0}, 0)
    metrics.save()
    inode = (tmp_path / "metrics.csv").stat().st_ino
    metrics.log_metrics({"loss": 1.0}, 1)
    metrics.save()
    assert (tmp_path / "metrics.csv").stat().st_ino == inode
    assert [row["loss"] for row in read(tmp_path / "metrics.csv")] == ["2.0", "1.0"]


def test_a_new_run_replaces_the_table_and_a_resumed_one_continues_it(tmp_path: Path) -> None:
    first = table(tmp_path)
    for step in range(4):
        first.log_metrics({"loss": float(step)}, step)
    first.save()
    resumed = table(tmp_path, keep=True)
    resumed.truncate(2)
    resumed.log_metrics({"loss": 20.0, "a": 1.0}, 2)
    resumed.save()
    rows = read(tmp_path / "metrics.csv")
    assert [(row["step"], row["loss"], row["a"]) for row in rows] == [
        ("0", "0.0", ""),
        ("1", "1.0", ""),
        ("2", "20.0", "1.0"),
    ]
    fresh = table(tmp_path)
    fresh.log_metrics({"loss": 7.0}, 0)
    fresh.save()
    assert [row["loss"] for row in read(tmp_path / "metrics.csv")] == ["7.0"]


def test_only_a_fit_has_the_plain_names() -> None:
    assert stage_file("metrics.csv", "fit") == "metrics.csv"
    assert stage_file("config.yaml", "predict") == "config_predict.yaml"


def test_folder_that_can_be_written_is_left_empty(tmp_path: Path) -> None:
    prepare_folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        prepare_folder(tmp_path / "file" / "run")
