"""The command generate, as a user calls it."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lit_narrative.cli.main import main
from lit_narrative.datamodules.storyworld import StoryworldData
from lit_narrative.tasks.storyworld.formats.files import read_any
from lit_narrative.tasks.storyworld.generator import example
from lit_narrative.tasks.storyworld.themes import NAMES
from lit_narrative.tasks.storyworld.world_files import read_worlds


def texts(folder: Path) -> list[str]:
    return [path.read_text(encoding="utf-8") for path in sorted(folder.iterdir())]


def test_the_worlds_are_those_of_the_generator_and_train_under_its_prompts(tmp_path: Path) -> None:
    main(["generate", "-n", "5", "--to", str(tmp_path / "w"), "--seed", "3"])
    assert [path.name for path in sorted((tmp_path / "w").iterdir())] == [f"world_000{n}.json" for n in range(1, 6)]
    rows = [example(index, 3) for index in range(5)]
    for text, row in zip(texts(tmp_path / "w"), rows, strict=True):
        assert json.loads(text) == {"title": row.meta["theme"], **json.loads(row.completion)}
    data = StoryworldData(worlds=str(tmp_path / "w"))
    splits = [data.examples(split) for split in ("train", "val", "test")]
    assert all(splits)
    assert sorted(row.prompt for split in splits for row in split) == sorted(row.prompt for row in rows)


def test_seed_and_number_say_which_worlds(tmp_path: Path) -> None:
    for name, args in {
        "a": ["--seed", "1"],
        "b": ["--seed", "1"],
        "c": ["--seed", "2"],
        "d": ["--seed", "1", "-n=7"],
    }.items():
        main(["generate", "--to", str(tmp_path / name), *args])
    made = {name: texts(tmp_path / name) for name in "abcd"}
    assert made["a"] == made["b"] == made["d"][:5]
    assert not set(made["a"]) & set(made["c"])


@pytest.mark.parametrize(("form", "suffix"), [("sweepweave", "json"), ("ink", "ink"), ("twee", "twee")])
def test_other_formats(form: str, suffix: str, tmp_path: Path) -> None:
    main(["generate", "-n", "3", "--to", str(tmp_path / form), "--format", form])
    files = sorted((tmp_path / form).iterdir())
    assert [path.suffix for path in files] == [f".{suffix}"] * 3
    if form == "sweepweave":
        readings = [read_any(text) for text in texts(tmp_path / form)]
        assert [(reading.dialect, reading.issues) for reading in readings] == [("editor", ())] * 3
    else:
        assert all(any(name in text for name in NAMES) for text in texts(tmp_path / form))


def test_nothing_is_overwritten_unless_asked_and_nothing_but_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "w"
    main(["generate", "-n", "3", "--to", str(folder)])
    before = texts(folder)

    def refused(*args: str) -> str:
        with pytest.raises(SystemExit) as end:
            main(["generate", *args])
        assert end.value.code == 2
        return capsys.readouterr().err

    assert "--force" in refused("--to", str(folder), "--seed", "1")
    assert texts(folder) == before
    main(["generate", "-n", "2", "--to", str(folder), "--seed", "1", "--force"])
    assert len(texts(folder)) == 2 and not set(texts(folder)) & set(before)
    (folder / "mine.json").write_text("{}", encoding="utf-8")
    assert "another file, 'mine.json'" in refused("--to", str(folder), "--force")
    assert "a file; name a folder" in refused("--to", str(folder / "mine.json"), "--force")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert "the working directory" in refused("--to", ".")
    assert "a pipe or a device" in refused("--to", "/dev/null")
    for args, message in {
        ("-n", "0"): "it must be 1 or more", ("-n", "1001"): "at most 1,000", ("--seed", "-1"): "it must be 0 or more",
        ("-n", "five"): "expected int",
    }.items():  # fmt: skip
        assert message in refused("--to", "new", *args)
    assert list((tmp_path / "here").iterdir()) == []


def test_a_kill_leaves_no_folder_half_filled(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lit_narrative", "generate", "-n", "1000", "--to", str(tmp_path / "w")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        until = time.monotonic() + 60
        while not list(tmp_path.glob(".w.*/new/*.json")) and process.poll() is None and time.monotonic() < until:
            time.sleep(0.005)
        process.kill()
    assert not (tmp_path / "w").exists() or len(read_worlds(tmp_path / "w")) == 1000
    main(["generate", "-n", "1", "--to", str(tmp_path / "w"), "--force"])
    assert [path.name for path in tmp_path.iterdir()] == ["w"]  # what the killed one left is gone
