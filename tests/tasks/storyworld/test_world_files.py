"""Users' own worlds: what is read, and that every fault names file, place and remedy."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from lit_narrative.errors import UserError
from lit_narrative.tasks.storyworld.world_files import WorldFileError, read_world_file, read_worlds
from tests.paths import LIGHT
from tests.tasks.storyworld.lighthouse import lighthouse

TEXT = json.dumps(lighthouse())


def named(path: Path | str) -> list[tuple[str, Any]]:
    return [(one.name, one.value) for one in read_worlds(path)]


def test_a_folder_a_jsonl_file_and_a_single_file(tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text(TEXT)
    (tmp_path / "a.json").write_text("\ufeff" + json.dumps(lighthouse(), indent=2), encoding="utf-8")
    (tmp_path / "notes.txt").write_text("not a world")
    assert named(tmp_path) == [("a", lighthouse()), ("b", lighthouse())]
    (tmp_path / "w.jsonl").write_text(f"{TEXT}\n\n{TEXT}\n")
    assert named(str(tmp_path / "w.jsonl")) == [("w:1", lighthouse()), ("w:3", lighthouse())]
    assert named(tmp_path / "b.json") == [("b", lighthouse())]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (TEXT[:-1], "not JSON: Expecting ',' delimiter .*; mend the JSON"),
        (TEXT.replace('"oil": 3', '"oil": NaN'), "NaN is not JSON"),
        ("[1]", "the top level must be an object"),
        (TEXT.replace('"text"', '"txt"', 1), r"\$\.encounters\[0\]: 'text' is a required property"),
        (TEXT.replace('"oil": 3', '"oil": "3"'), r"\$\.initial_state\.oil: '3' is not of type 'number'"),
        (TEXT.replace('"oil": 3', '"oil": 3, "oil": 4'), "a key occurs twice in 1 object.*'oil'"),
        (TEXT.replace("storm", "x" * 2**24), "at most 16,777,216 are read; split the world"),
        (
            TEXT.replace('"text": "', '"text": "\\ud83d ', 1),
            r"not Unicode: \\ud83d is half of a character .*; mend the JSON",
        ),
        ("", "not JSON"),
    ],
)
def test_a_bad_world_is_one_error_that_names_file_place_and_remedy(
    tmp_path: Path, text: str, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    worse = tmp_path / "worse.json"
    worse.write_text(text)
    for path in (worse, tmp_path):
        with pytest.raises(WorldFileError, match=f"'{worse}': .*{says}"):
            read_worlds(path)
    (tmp_path / "good.json").write_text(TEXT)
    assert named(tmp_path) == [("good", lighthouse())]
    (left_out,) = caplog.messages
    assert re.search(f"1 of the 2 files at '{tmp_path}' are left out: '{worse}': .*{says}", left_out)
    if text:
        (tmp_path / "w.jsonl").write_text(f"{TEXT}\n{text}\n")
        with pytest.raises(WorldFileError, match=f"w.jsonl', line 2: .*{says}"):
            read_worlds(tmp_path / "w.jsonl")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    for name in ("w.json", "w.jsonl"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(UserError, match=f"{name}: it is a pipe or a device"):
            read_worlds(tmp_path / name)


def test_paths_that_hold_no_worlds(tmp_path: Path) -> None:
    (tmp_path / "latin.json").write_bytes(b'{"a":"\xe9"}')
    (tmp_path / "latin.jsonl").write_bytes(b'{"a":"\xe9"}')
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "folder").mkdir()
    with open(tmp_path / "giant.json", "wb") as file:
        file.truncate(65 * 2**20)
    for name, says in {
        "nowhere": "there is no file",
        "nowhere.jsonl": "cannot be read: No such file",
        "folder": "holds no worlds",
        "empty.jsonl": "holds no worlds",
        "latin.json": r"is not UTF-8 \(byte 6\)",
        "latin.jsonl": "is not UTF-8",
        "giant.json": "is larger than 16,777,216 characters",
    }.items():
        with pytest.raises(WorldFileError, match=says) as caught:
            read_worlds(tmp_path / name)
        assert isinstance(caught.value, UserError)
        assert isinstance(caught.value, ValueError)
        assert name in str(caught.value)
    with pytest.raises(WorldFileError, match="is a folder"):
        read_world_file(tmp_path / "folder")


def test_files_of_several_formats_lie_in_one_folder(tmp_path: Path) -> None:
    (tmp_path / "simple.json").write_text(TEXT)
    (tmp_path / "authored.json").write_text(LIGHT.read_text())
    found = {one.name: one for one in read_worlds(tmp_path)}
    assert (found["simple"].simple, found["authored"].simple) == (True, False)
    assert found["authored"].world.encounters
