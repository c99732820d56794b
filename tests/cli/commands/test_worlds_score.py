"""The score command, in its own process where the output stream matters."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lit_narrative.cli.commands.worlds import score
from lit_narrative.cli.main import main
from lit_narrative.tasks.storyworld.generator import corpus
from lit_narrative.tasks.storyworld.verifiers.base import SIX
from lit_narrative.tasks.storyworld.verifiers.score import score as judge
from tests.tasks.storyworld.lighthouse import encounter, make, option

WORLD = corpus(1, 0)[0].completion


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    for name, text in {"good.json": WORLD, "broken.json": WORLD[:-1], "empty.json": "{}"}.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return [str(tmp_path / name) for name in ("good.json", "broken.json", "empty.json")]


def test_all_keys_that_a_world_lacks_are_named_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    part = tmp_path / "part.json"
    part.write_text('{"characters": {}, "encounters": [{"id": "hall"}]}', encoding="utf-8")
    main(["score", str(part), "--format", "json"])
    messages = {issue["path"]: issue["message"] for issue in json.loads(capsys.readouterr().out)[0]["issues"]}
    assert "'initial_state', 'properties'" in messages["$"]
    assert "'text', 'options'" in messages["$.encounters[0]"]


@pytest.mark.parametrize("mode", ["strict", "original"])
def test_json_is_one_list_with_a_row_a_file(files: list[str], mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["score", *files, "--mode", mode, "--format", "json"])
    rows = json.loads(capsys.readouterr().out)
    assert [row["file"] for row in rows] == files
    for row, text in zip(rows, (WORLD, WORLD[:-1], "{}"), strict=True):
        expected = judge(text, mode=mode)  # type: ignore[arg-type]
        assert list(row) == ["file", "components", "total", "issues", "parts"]
        assert row["parts"] == expected.parts
        assert row["components"] == expected.components
        assert list(row["components"]) == list(SIX)
        assert row["total"] == expected.total
        assert len(row["issues"]) == len(expected.issues)
    assert {"path", "message", "severity"} == set(rows[1]["issues"][0])


def test_the_former_name_of_the_mode_original_gives_the_same_scores(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = []
    for mode in ("seed", "original"):
        main(["score", *files, "--mode", mode, "--format", "json"])
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]


def test_the_table_holds_every_number_and_the_issues(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(["score", *files])
    out = capsys.readouterr().out
    assert [name for name in (*SIX, "total") if name not in out] == []
    lines = [line for line in out.splitlines() if line.startswith("good.json")]
    assert [float(word) for word in lines[0].split()[1:]] == [
        *(round(value, 3) for value in judge(WORLD).components.values()),
        round(judge(WORLD).total, 3),
    ]
    assert "not JSON: Expecting ',' delimiter" in out
    assert "'characters', 'initial_state', 'properties', 'encounters' are required properties" in " ".join(out.split())


def test_score_and_play_say_alike_whether_a_world_is_sound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A world with a gate that is always open where it is offered; and with an option more, that closes it at times."""
    hall = encounter("hall", option("wait", "yard", {"logs": 1}), option("run", "road"))
    yard = encounter("yard", option("pay", "gate", gates=[("logs", ">=", 4)]), option("go", "road"))
    idle = make(hall, yard, encounter("gate"), encounter("road"))
    live = make(
        {**hall, "options": [*hall["options"], option("lie", "yard", {"Ada_calm": -1})]}, *idle["encounters"][1:]
    )
    for value, says in ((idle, "playable, not sound: no gate was met both open and closed"), (live, "sound: seeded")):
        file = tmp_path / "w.json"
        file.write_text(json.dumps(value))
        main(["score", str(file)])
        assert f"  {says}" in capsys.readouterr().out
        main(["play", str(file), "--policy", "random"])
        played = capsys.readouterr().out
        assert f"as scored   {says}" in played
        assert ("pay at yard: always open" in played) is (value is idle)


def test_many_issues_are_cut_in_the_table_and_whole_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "w.json").write_text(WORLD.replace('"next_encounter":', '"next_encounter":"x","was":'))
    value = json.loads(WORLD)
    value["encounters"][0]["options"] *= 40
    (tmp_path / "w.json").write_text(json.dumps(value))
    score([str(tmp_path / "w.json")])
    assert "more; --format json lists all" in capsys.readouterr().out
    score([str(tmp_path / "w.json")], format="json")
    assert len(json.loads(capsys.readouterr().out)[0]["issues"]) > 30


def test_an_unreadable_file_has_a_row_with_its_issue(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["score", *files, "--format", "json"])
    readable = json.loads(capsys.readouterr().out)
    bad = {"latin.json": b"\xe9", "blank.json": b" \n", "wide.json": b"x" * (2**24 + 1)}
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "large.json").touch()
    os.truncate(tmp_path / "large.json", 2**27)
    os.mkfifo(tmp_path / "pipe.json")
    names = [str(tmp_path / name) for name in (*bad, "large.json", "pipe.json", "nowhere.json")]
    given = [files[0], *names, *files[1:]]
    with pytest.raises(SystemExit) as caught:
        main(["score", *given, "--format", "json"])
    assert caught.value.code == 1
    rows = json.loads(capsys.readouterr().out)
    assert [row["file"] for row in rows] == given
    assert [row for row in rows if row["file"] in files] == readable
    reasons = ("not UTF-8", "is empty", "at most", "is larger than", "a pipe or a device", "there is no file")
    for row, name, reason in zip(rows[1:], names, reasons, strict=False):
        [issue] = row["issues"]
        assert row["total"] == 0 and set(row["components"].values()) == {0}
        assert name in issue["message"] and reason in issue["message"] and issue["severity"] == "error"
    with pytest.raises(SystemExit) as caught:
        main(["score", *given])
    assert caught.value.code == 1
    assert capsys.readouterr().out.count("0.000") >= 7 * len(names)


def test_half_a_character_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "half.json"
    path.write_text(WORLD.replace('"text": "', '"text": "\\ud83d ', 1).replace('"text":"', '"text":"\\ud83d ', 1))
    score([str(path)])
    assert "not Unicode: \\ud83d is half of a character" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(SystemExit):
        main(["play", str(path), "--policy", "random"])
    assert "half of a character" in capsys.readouterr().err


def test_text_that_a_terminal_cannot_show_is_shown_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "[bold]odd.json"
    path.write_text(WORLD.replace('"next_encounter":"', '"next_encounter":"\\ufffe\\u001b[31m[red]:smile:'))
    done = subprocess.run(
        [sys.executable, "-c", "from lit_narrative.cli.main import main; main()", "score", str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "\x1b" not in done.stdout
    assert "[bold]odd" in done.stdout
    assert "[red]:smile:" in done.stdout


def test_it_starts_without_torch(files: list[str]) -> None:
    program = (
        "import sys; from lit_narrative.cli.main import main; main(sys.argv[1:]);"
        "sys.exit(int(any(name in sys.modules for name in ('torch', 'lightning', 'transformers'))))"
    )
    subprocess.run([sys.executable, "-c", program, "score", *files], check=True, capture_output=True)
    play = ["play", files[0], "--policy", "random"]
    subprocess.run([sys.executable, "-c", program, *play], check=True, capture_output=True)


@pytest.fixture
def samples(tmp_path: Path) -> str:
    """What a run leaves, and a line with a world."""
    rows = [{"prompt": "Write", "text": text, "reward": 0.5} for text in (WORLD, WORLD[:-1])]
    (tmp_path / "val.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows) + f"\n{WORLD}\n")
    return str(tmp_path / "val.jsonl")


def test_the_samples_of_a_run_are_scored(samples: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["score", samples, "--format", "json"])
    rows = json.loads(capsys.readouterr().out)
    assert [row["file"] for row in rows] == [f"{samples}:{number}" for number in (1, 2, 3)]
    assert [row["total"] for row in rows] == [judge(text).total for text in (WORLD, WORLD[:-1], WORLD)]
    main(["score", samples, "--sample", "2", "--format", "json"])
    assert json.loads(capsys.readouterr().out) == rows[1:2]


@pytest.mark.parametrize(("command", "more"), [("play", ["--policy=random", "--runs=5"]), ("simulate", ["--runs=5"])])
def test_a_sample_of_a_run_is_played(
    command: str, more: list[str], samples: str, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main([command, files[0], *more])
    table = capsys.readouterr().out
    main([command, samples, "--sample=1", *more])
    assert capsys.readouterr().out == table
    for given, message in (
        ([samples], "holds 3 samples; choose one by --sample=1 to 3"),
        ([samples, "--sample=4"], "--sample is 4; "),
        ([files[0], "--sample=1"], "holds one text; leave it out"),
    ):
        with pytest.raises(SystemExit):
            main([command, *given, *more])
        assert message in capsys.readouterr().err
