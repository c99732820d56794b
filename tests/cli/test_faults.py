"""Errors at the command line: one line with the path and the remedy, an exit code that says whose turn it is."""

import errno
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from safetensors.torch import save_file

from lit_narrative.cli.faults import in_one_line, note_run_folder
from lit_narrative.cli.main import main
from lit_narrative.errors import UserError
from lit_narrative.files import write_text
from lit_narrative.modules.sft import SFTModule
from tests.helpers import TinyTask, fit, sizes, tokenizer_folder, trainer
from tests.tasks.storyworld.report.make_run import make_run


def ended(action: Callable[[], object], debug: bool = False) -> int:
    """The exit code after an action at the command line."""
    with pytest.raises(SystemExit) as end, in_one_line(debug):
        action()
    assert isinstance(end.value.code, int)
    return end.value.code


def tiny(folder: Path) -> SFTModule:
    return SFTModule(sizes(), tokenizer_folder(folder))


def raised(error: Exception, cause: Exception | None = None) -> Callable[[], object]:
    def action() -> None:
        raise error from cause

    return action


@pytest.mark.parametrize(
    ("action", "line"),
    [
        (raised(UserError("there is no 'x'")), "there is no 'x'"),
        (raised(ValueError("in a list"), UserError("there is no 'x'")), "there is no 'x'"),
        (lambda: Path("/no/such/file").read_bytes(), "'/no/such/file': No such file or directory; check the path"),
        (
            lambda: write_text("/proc/report.html", ""),
            "'/proc/.*': .*; (check the path|change its permissions, or name)",
        ),
        (raised(OSError(errno.EACCES, "Permission denied", "runs")), "'runs': Permission denied; change its perm"),
        (lambda: torch.empty(2**55), r"out of memory \(.*t allocate memory.*\); take smaller batches"),
        (
            raised(torch.OutOfMemoryError("CUDA out of memory. Tried ...\nmore")),
            r"out of memory \(CUDA out of .*\); take",
        ),
        (lambda: bytearray(2**62), "out of memory .*; take smaller batches"),
        (raised(MisconfigurationException("no such device")), "trainer: no such device"),
    ],
)
def test_what_a_person_can_put_right_is_one_line_and_code_2(
    action: Callable[[], object], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(action) == 2
    assert re.match(rf"error: {line}", printed := capsys.readouterr().err)
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    ("callback", "settings", "line"),
    [
        (
            EarlyStopping("nope"),
            {},
            "trainer: Early stopping .* metric `nope` .* any of the following: `loss`",
        ),
        (
            ModelCheckpoint(monitor="nope"),
            {"enable_checkpointing": True},
            "trainer: .* could not find the monitored",
        ),
        (Callback(), {"val_check_interval": 500}, "trainer: `val_check_interval` .500. must be less than or equal"),
    ],
)
def test_what_lightning_refuses_is_one_line(
    callback: Callback, settings: dict[str, Any], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = {"limit_val_batches": 1, "max_epochs": 1, **settings}
    assert ended(lambda: fit(tiny(tmp_path), TinyTask(), tmp_path, callback, **shown)) == 2
    assert re.search(rf"error: {line}", capsys.readouterr().err)


def test_a_fit_does_not_resume_from_weights_alone(tmp_path: Path) -> None:
    def run(**settings: Any) -> None:
        given = settings.pop("callbacks", ())
        runner = trainer(tmp_path, *given, max_steps=2, enable_checkpointing=bool(given))
        runner.fit(tiny(tmp_path), TinyTask(), **settings)

    run(callbacks=[ModelCheckpoint(tmp_path, "weights", save_weights_only=True, every_n_train_steps=2)])
    with pytest.raises(UserError, match=r"weights\.ckpt' holds weights alone .* start a new one from its weights"):
        run(ckpt_path=tmp_path / "weights.ckpt")


def test_a_fault_is_one_line_that_says_where_its_text_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def action() -> None:
        note_run_folder(tmp_path)
        raise KeyError("state\x1b[31m, asked with api_key=SECRET\nand more")

    assert ended(action) == 1
    line = capsys.readouterr().err
    assert re.match(r"fault: KeyError: .*; its full text is in '.*', or run the command again with --debug", line)
    assert line.count("\n") == 1
    (file,) = tmp_path.iterdir()
    assert str(file) in line and "\x1b" not in line
    text = file.read_text()
    assert text.startswith("Traceback") and "test_faults.py" in text
    assert "SECRET" not in text and "SECRET" not in line


def test_a_fault_where_the_run_folder_is_gone_is_written_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def action() -> None:
        note_run_folder(tmp_path / "gone")
        raise ZeroDivisionError

    assert ended(action) == 1
    assert str(next(tmp_path.glob("fault_*.txt"))) in capsys.readouterr().err


@pytest.mark.parametrize("place", [0, 1, 3])
def test_debug_shows_the_traceback_wherever_it_stands(place: int, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["configs", "show", "nope"]
    arguments.insert(place, "--debug")
    with pytest.raises(SystemExit) as end:
        main(arguments)
    printed = capsys.readouterr().err
    assert end.value.code == 2 and printed.startswith("Traceback") and "\nerror: no configuration 'nope'" in printed
    assert ended(raised(ZeroDivisionError()), debug=True) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_full_disk_behind_standard_output_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "lit_narrative", "configs", "list"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: No space left on device; free some space")


def fill(disk: Path) -> None:
    """Leave no space on a small disk."""
    with (disk / "filler").open("wb", buffering=0) as file:
        while True:
            try:
                file.write(bytes(4096))
            except OSError:
                return


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("command", ["report", pytest.param("compare", marks=pytest.mark.slow), "export"])
def test_a_full_disk_costs_one_line_and_no_file(
    command: str,
    small_disk: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    if command == "report":
        arguments, target = ["report", str(make_run(small_disk / "run"))], small_disk / "run" / "summary.json"
    elif command == "compare":
        folder, target = str(request.getfixturevalue("circuits")), small_disk / "comparison.json"
        arguments = ["compare", folder, folder, "--out", str(target.with_suffix(".html"))]
    else:
        target = small_disk / "model"
        arguments = ["export", str(checkpoint(tmp_path)), str(target)]
    if command != "export":
        write_text(target, "old")
    fill(small_disk)
    before = files(small_disk)
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert re.match(rf"error: '{target}': No space left on device; free some space there", line), line
    assert files(small_disk) == before
    (small_disk / "filler").unlink()
    main(arguments)
    assert target.exists() and not [name for name in os.listdir(target.parent) if name.startswith(".")]


def checkpoint(folder: Path) -> Path:
    from lit_narrative.lm.sampler import SamplingParams
    from lit_narrative.modules.sft import SFTModule
    from tests.helpers import TinyTask, fit, sizes, tokenizer_folder

    module = SFTModule(sizes(), tokenizer_folder(folder), sampling=SamplingParams(8))
    fit(module, TinyTask(), folder, max_steps=1).save_checkpoint(folder / "last.ckpt")
    return folder / "last.ckpt"


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "objects", "no checkpoint", "tokenizer", "weights", "key"])
def test_a_damaged_checkpoint_is_one_line_that_names_it(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = checkpoint(tmp_path)
    content = torch.load(path, weights_only=True)
    match damage:
        case "cut":
            path.write_bytes(path.read_bytes()[:-2000])
        case "empty":
            path.write_bytes(b"")
        case "text":
            path.write_text("version https://git-lfs.github.com/spec/v1")
        case "objects":
            torch.save({**content, "more": Path("x")}, path)
        case "no checkpoint":
            save_file({"weight": torch.zeros(2)}, path)
        case "tokenizer":
            content["language_model"]["tokenizer"]["tokenizer.json"] = "[" * 10_000
            torch.save(content, path)
        case "key":
            del content["language_model"]["config"]
            torch.save(content, path)
        case "weights":
            content["state_dict"].popitem()
            torch.save(content, path)
    with pytest.raises(SystemExit) as end:
        main(["export", str(path), str(tmp_path / "out")])
    printed = capsys.readouterr().err.splitlines()
    assert end.value.code == 2
    assert re.match(rf"error: '{path}'.*; give another checkpoint|error: '{path}'.*tokenizer is damaged", printed[-1])
    assert not [line for line in printed if line.startswith("Traceback")] and not (tmp_path / "out").exists()
