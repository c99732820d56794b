"""Files read and written: tables, YAML and JSON, whole or with an error that names the file."""

import errno
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lit_narrative.circuits.tables import read_arrays, write_arrays
from lit_narrative.errors import UserError
from lit_narrative.files import (
    append_text,
    atomic_folder,
    csv_text,
    read_json,
    read_table,
    read_utf8,
    read_yaml,
    write_table,
    write_text,
)
from lit_narrative.report.records import read_record


def test_a_table_comes_back_without_its_empty_cells(tmp_path: Path) -> None:
    path = write_table(
        tmp_path / "new" / "table.csv", ["name", "value", "note"], [["a,b", 0.1 + 0.2, None], ['"', 2, "é\n"]]
    )
    assert path.read_text(encoding="utf-8").startswith('name,value,note\n"a,b",0.30000000000000004,\n')
    assert read_table(path) == [
        {"name": "a,b", "value": "0.30000000000000004"},
        {"name": '"', "value": "2", "note": "é\n"},
    ]
    assert [file.name for file in path.parent.iterdir()] == ["table.csv"]


def test_a_damaged_table_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_bytes(b"a,b\n1,\xff\n")
    with pytest.raises(UserError, match=r"metrics\.csv cannot be read as a table \(.*\); it may be damaged$"):
        read_table(path)


def test_rows_that_are_appended_make_the_same_table(tmp_path: Path) -> None:
    path, rows = tmp_path / "table.csv", [[1, "x"], [2, "y,z"]]
    write_table(path, ["n", "text"], rows[:1])
    with path.open("a", newline="") as file:
        file.write(csv_text(rows[1:]))
    whole = write_table(tmp_path / "whole.csv", ["n", "text"], rows)
    assert path.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
    ("content", "reason"), [(b"a: [", "expected the node content"), (b"\xff", "utf-8"), (None, "No such file")]
)
def test_yaml_that_cannot_be_read_is_one_line(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "settings.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"settings\.yaml cannot be read as YAML: ") as error:
        read_yaml(path)
    assert reason in str(error.value) and "\n" not in str(error.value)


def test_yaml_gives_plain_values_and_runs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("a: {b: [1, 2.5, null, yes]}\n")
    assert read_yaml(path) == {"a": {"b": [1, 2.5, None, True]}}
    path.write_text("!!python/object/apply:os.getcwd []\n")
    with pytest.raises(UserError, match="cannot be read as YAML"):
        read_yaml(path)


@pytest.mark.parametrize("read", [read_yaml, read_json, read_record])
def test_values_that_are_nested_too_deeply_are_one_line(tmp_path: Path, read: Callable[[Path], object]) -> None:
    path = tmp_path / "recipe.json"
    path.write_text("[" * 5_000)
    with pytest.raises(UserError, match=r"^\S*recipe\.json cannot be read as (JSON|YAML): .* nested too deeply$"):
        read(path)


def test_damaged_arrays_are_one_line_that_names_the_file(tmp_path: Path) -> None:
    path = write_arrays(tmp_path / "directions.safetensors", {"a": np.arange(6.0).reshape(2, 3).T})
    assert read_arrays(path)["a"].tolist() == [[0, 3], [1, 4], [2, 5]]
    path.write_bytes(b"\xff" * 40)
    with pytest.raises(UserError, match=r"directions\.safetensors' is damaged \(.*\); run the analysis again$"):
        read_arrays(path)


def test_a_full_disk_leaves_the_old_file_and_names_it(small_disk: Path) -> None:
    page = write_text(small_disk / "report.html", "old")
    with pytest.raises(OSError, match=r"No space left on device: '.*/report\.html'$") as error:
        write_text(page, "x" * 5_000_000)
    assert (error.value.errno, page.read_text()) == (errno.ENOSPC, "old")
    assert os.listdir(small_disk) == ["report.html"]


def test_a_full_disk_takes_no_half_row(small_disk: Path) -> None:
    table = write_table(small_disk / "metrics.csv", ["step", "text"], [[0, "é"]])
    append_text(table, csv_text([[1, "more"]]))
    before = table.read_bytes()
    with pytest.raises(OSError, match=r"No space left on device: '.*/metrics\.csv'$"):
        append_text(table, csv_text([[2, "x" * 5_000_000]]))
    assert table.read_bytes() == before == "step,text\n0,é\n1,more\n".encode()


@pytest.mark.parametrize("library", ["python", "safetensors", "torch"])
def test_a_full_disk_leaves_the_old_folder_and_names_it(small_disk: Path, library: str) -> None:
    import torch
    from safetensors.torch import save_file

    with atomic_folder(small_disk / "export") as fresh:
        (fresh / "weights").write_text("old")
    with (
        pytest.raises(OSError, match=r"No space left on device: '.*/export'$"),
        atomic_folder(small_disk / "export") as f,
    ):
        if library == "python":
            (f / "weights").write_bytes(bytes(5_000_000))
        elif library == "torch":
            torch.save(torch.zeros(2_000_000), f / "weights")
        else:
            save_file({"weight": torch.zeros(2_000_000)}, f / "weights")
    assert [path.name for path in small_disk.rglob("*")] == ["export", "weights"]
    assert (small_disk / "export" / "weights").read_text() == "old"


KILLED = """
import os, signal, sys
from lit_narrative.files import append_text, atomic_folder, write_text
target, step = sys.argv[1:]
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
real = getattr(os, step)
setattr(os, step, die)
if target.endswith("txt"):
    write_text(target, "new")
with atomic_folder(target) as fresh:
    setattr(os, step, real)
    (fresh / "a").write_text("new")
    setattr(os, step, die)
"""


@pytest.mark.parametrize("target", ["report.txt", "export"])
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_kill_between_the_steps_leaves_the_old_one_and_the_next_write_tidies_up(
    tmp_path: Path, target: str, step: str
) -> None:
    def write(text: str) -> None:
        if target.endswith("txt"):
            write_text(tmp_path / target, text)
        else:
            with atomic_folder(tmp_path / target) as fresh:
                (fresh / "a").write_text(text)

    def content() -> str:
        path = tmp_path / target
        return (path if path.is_file() else path / "a").read_text()

    write("old")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / target), step], timeout=60)
    assert (killed.returncode, content()) == (-signal.SIGKILL, "old")
    assert len(os.listdir(tmp_path)) == 2
    write("newer")
    assert (os.listdir(tmp_path), content()) == ([target], "newer")


def test_what_a_process_that_still_runs_is_writing_stays(tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    with atomic_folder(tmp_path / "export") as fresh, atomic_folder(tmp_path / "export") as other:
        write_text(target, "")
        assert fresh.is_dir() and other.is_dir()


def test_pipes_and_devices_are_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for read in (read_utf8, read_yaml, read_table, read_json):
        for path in (tmp_path / "pipe", tmp_path / "link", Path("/dev/zero")):
            with pytest.raises(UserError, match=f"cannot read {path}: it is a pipe or a device"):
                read(path)


def test_nothing_is_put_in_the_place_of_a_device_or_of_an_open_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "stdout").symlink_to("/proc/self/fd/1")
    for name in ("pipe", "stdout"):
        with pytest.raises(UserError, match=r"cannot write .*; name "):
            write_text(tmp_path / name, "text")
        with pytest.raises(UserError, match=r"cannot write .*; name "), atomic_folder(tmp_path / name):
            pass
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert os.readlink(tmp_path / "stdout") == "/proc/self/fd/1"
    with pytest.raises(IsADirectoryError):
        write_text("", "text")
    assert sorted(os.listdir(tmp_path)) == ["pipe", "stdout"]
