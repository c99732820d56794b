"""The commands check and convert, as a user calls them."""

import json
import os
from pathlib import Path

import pytest

from lit_narrative.cli.main import main
from lit_narrative.tasks.storyworld.formats.files import read_any
from lit_narrative.tasks.storyworld.formats.sweepweave.rules import loader_issues
from tests.paths import LIGHT
from tests.tasks.storyworld.lighthouse import beacon, lighthouse


@pytest.fixture
def world(tmp_path: Path) -> str:
    path = tmp_path / "lighthouse.json"
    path.write_text(json.dumps(lighthouse()), encoding="utf-8")
    return str(path)


def broken(folder: Path) -> Path:
    value = json.loads(LIGHT.read_text(encoding="utf-8"))
    value["encounters"][0]["options"][0]["reactions"][0]["consequence_id"] = "page_end_c"
    (folder / "b.json").write_text(json.dumps(value), encoding="utf-8")
    return folder / "b.json"


def test_a_good_file_has_no_issues(capsys: pytest.CaptureFixture[str]) -> None:
    main(["check", str(LIGHT), "--editor"])
    out = " ".join(capsys.readouterr().out.split())
    assert "sweepweave_light.json: no issues" in out.replace("\n", "")
    assert "SweepWeave: 2 characters, 2 variables, 3 encounters, 2 options, 3 reactions, 2 effects" in out


def test_issues_have_a_place_and_a_repair(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["check", str(broken(tmp_path))])
    assert exit_.value.code == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "1 error, 0 warnings" in out
    assert "$.encounters[0].options[0].reactions[0].consequence_id dangling reference" in out
    assert "mend: write 'page_end_" in out


def test_a_folder_without_worlds_is_named_and_the_other_files_go_on(
    tmp_path: Path, world: str, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(SystemExit) as exit_:
        main(["check", str(empty), world, "--format", "json"])
    assert exit_.value.code == 1
    first, second = json.loads(capsys.readouterr().out)
    assert f"'{empty}' is a folder without *.json files" in first["issues"][0]["message"]
    assert (second["file"], second["issues"]) == (world, [])


def test_in_a_folder_the_bad_file_is_named_and_the_others_go_on(
    tmp_path: Path, world: str, capsys: pytest.CaptureFixture[str]
) -> None:
    broken(tmp_path)
    (tmp_path / "a.json").write_bytes('{"title": "Caf\u00e9"}'.encode("latin-1"))
    (tmp_path / "c.json").write_text("{", encoding="utf-8")
    with pytest.raises(SystemExit):
        main(["check", str(tmp_path), "--format", "json"])
    rows = {Path(row["file"]).name: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == ["a.json", "b.json", "c.json", "lighthouse.json"]
    assert "not UTF-8" in rows["a.json"]["issues"][0]["message"]
    assert rows["b.json"]["dialect"] == "editor"
    assert "not JSON" in rows["c.json"]["issues"][0]["message"]
    assert rows["lighthouse.json"] == {
        "file": world,
        "dialect": "simple",
        "characters": 2,
        "variables": 3,
        "encounters": 5,
        "options": 10,
        "reactions": 10,
        "effects": 10,
        "issues": [],
    }
    assert set(rows["b.json"]["issues"][0]) == {"path", "message", "severity", "repair"}


def test_what_the_editor_would_not_load_is_said_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    value = json.loads(LIGHT.read_text(encoding="utf-8"))
    del value["characters"][0]["pronoun"]
    path = tmp_path / "w.json"
    path.write_text(json.dumps(value), encoding="utf-8")
    main(["check", str(path)])
    with pytest.raises(SystemExit):
        main(["check", str(path), "--editor"])
    assert "it lacks pronoun" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("to", ["simple", "sweepweave", "ink", "twee"])
def test_a_world_is_written_in_each_format(world: str, to: str, tmp_path: Path) -> None:
    out = tmp_path / "out" / "world"
    main(["convert", world, "--to", to, "--out", str(out)])
    text = out.read_text(encoding="utf-8")
    if to == "simple":
        assert json.loads(text) == lighthouse()
    elif to == "sweepweave":
        assert loader_issues(json.loads(text)) == ()
        assert read_any(text).issues == ()
    else:
        assert ("=== k0_storm ===" if to == "ink" else ":: k0_storm") in text


def test_without_out_the_world_goes_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    main(["convert", str(LIGHT)])
    captured = capsys.readouterr()
    assert json.loads(captured.out)["title"] == "Light"
    assert captured.err == ""


def test_issues_of_a_converted_file_are_counted_beside_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["convert", str(broken(tmp_path)), "--out", str(tmp_path / "new.json")])
    assert "1 error, 0 warnings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "to", "message"),
    [
        (json.dumps(beacon()), "ink", "ink cannot say this world"),
        ("{}", "simple", "is no world"),
        ("[", "simple", "not JSON"),
    ],
)
def test_what_cannot_be_converted_is_said_in_one_line(
    text: str, to: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "w.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SystemExit) as exit_:
        main(["convert", str(path), "--to", to, "--out", str(tmp_path / "out")])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_file_is_not_written_over_itself(world: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["convert", world, "--out", world])
    assert "the file that is read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "option"), [("convert", "--out"), ("simulate", "--out"), ("simulate", "--traces"), ("play", "--trace")]
)
def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    command: str, option: str, world: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = Path(world).read_bytes()
    os.mkfifo(tmp_path / "pipe")
    for place, says in (
        (world, "the file that is read; give another name"),
        ("", f"{option} is ''; name a file"),
        (str(tmp_path), "name a file, not a folder"),
        (str(tmp_path / "pipe"), "it is a pipe or a device; name a file"),
    ):
        with pytest.raises(SystemExit) as exit_:
            main([command, world, option, place, *(["--policy", "random"] if command == "play" else [])])
        caught = capsys.readouterr()
        assert (exit_.value.code, caught.out) == (2, "") and says in caught.err
    assert Path(world).read_bytes() == before and sorted(os.listdir(tmp_path)) == ["lighthouse.json", "pipe"]


def test_two_results_are_not_written_to_one_file(
    world: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = str(tmp_path / "page.html")
    with pytest.raises(SystemExit):
        main(["simulate", world, "--out", page, "--traces", page])
    assert "as --out is; give another name" in capsys.readouterr().err and not Path(page).exists()


def test_a_start_that_is_not_there_is_mended_by_leaving_it_out_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({**lighthouse(), "start": "###"}), encoding="utf-8")
    with pytest.raises(SystemExit):
        main(["check", str(path)])
    assert "mend: leave it out" in " ".join(capsys.readouterr().out.split())
    for to in ("simple", "sweepweave", "twee"):
        main(["convert", str(path), "--to", to])
        assert len(capsys.readouterr().out) > 500


def test_a_name_that_is_not_unicode_is_written(world: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["convert", world, "--out", str(tmp_path / "caf\udce9.json")])
    assert "caf\ufffd.json" in capsys.readouterr().out
    assert b"caf\xe9.json" in os.listdir(os.fsencode(tmp_path))


def test_worlds_and_samples_in_lines_are_checked_and_converted(
    tmp_path: Path, world: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = tmp_path / "samples.jsonl"
    lines.write_text(json.dumps(lighthouse()) + "\n\n" + json.dumps({"text": "{"}) + "\n", encoding="utf-8")
    with pytest.raises(SystemExit):
        main(["check", str(lines), world, "--format", "json"])
    rows = json.loads(capsys.readouterr().out)
    assert [row["file"] for row in rows] == [f"{lines}:1", f"{lines}:2", world]
    assert [bool(row["issues"]) for row in rows] == [False, True, False]
    main(["convert", str(lines), "--sample", "1", "--to", "sweepweave"])
    assert read_any(capsys.readouterr().out).issues == ()
    with pytest.raises(SystemExit):
        main(["convert", str(lines)])
    assert "choose one by --sample=1 to 2" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "says"), [("", "the name of a file is empty"), ("x" * 300, "File name too long")])
def test_a_name_that_is_none_is_said_and_the_other_files_go_on(
    name: str, says: str, world: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(world).parent)
    with pytest.raises(SystemExit) as exit_:
        main(["check", name, world, "--format", "json"])
    assert exit_.value.code == 1
    first, second = json.loads(capsys.readouterr().out)
    assert says in first["issues"][0]["message"] and (second["file"], second["issues"]) == (world, [])


@pytest.mark.parametrize("depth", [3, 23])
def test_a_script_that_gets_too_deep_for_the_other_format_is_not_lost_silently(
    depth: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    value: list[object] | str = "oil"
    for _ in range(depth):
        value = ["abs", value]
    world = lighthouse()
    world["encounters"][0]["options"][0]["reactions"][0]["after_effects"] = [
        {"variable": "oil", "op": "set", "value": value}
    ]
    path, out = tmp_path / "deep.json", tmp_path / "out.json"
    path.write_text(json.dumps(world), encoding="utf-8")
    main(["check", str(path)])
    main(["convert", str(path), "--out", str(out)])
    out.unlink()
    if depth == 3:
        main(["convert", str(path), "--to", "sweepweave", "--out", str(out)])
        assert all(issue.severity == "warning" for issue in read_any(out.read_text(encoding="utf-8")).issues)
        return
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        main(["convert", str(path), "--to", "sweepweave", "--out", str(out)])
    assert exit_.value.code == 2 and not out.exists()
    assert "loses a part as sweepweave: $.encounters[0].options[0].reactions[0]" in capsys.readouterr().err
