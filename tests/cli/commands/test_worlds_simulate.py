"""The simulate command: tables, JSON, traces and the page, on worlds of both formats."""

import json
from pathlib import Path
from typing import Any

import pytest

from lit_narrative.cli.main import main
from tests.helpers import tiny_lm, tokenizer
from tests.paths import LIGHT
from tests.report.check_page import ATTACK, check
from tests.tasks.storyworld.engine_worlds import scripted_world
from tests.tasks.storyworld.lighthouse import lighthouse


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "light.json"
    path.write_text(json.dumps(lighthouse()))
    return str(path)


def simulated(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    main(["simulate", *args, "--format", "json"])
    return json.loads(capsys.readouterr().out)  # type: ignore[no-any-return]


def test_the_same_seed_makes_the_same_figures(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    one = simulated(capsys, file, "--runs", "300", "--seed", "3")
    assert one == simulated(capsys, file, "--runs", "300", "--seed", "3")
    assert one["endings"] != simulated(capsys, file, "--runs", "300", "--seed", "4")["endings"]
    assert one["settings"]["nudge"] == "asymptotic"
    assert {row["name"] for row in one["measures"]} >= {"dead_end_rate", "late_block", "secret_reach"}
    assert {row["name"] for row in one["profile"]} >= {"options_per_encounter", "visibility_gated"}


def test_policies_choose(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    script = ["--policy", "scripted", "--choices", "tend", "signal", "dig", "confess"]
    assert simulated(capsys, file, "--runs", "3", *script)["endings"]["dawn"][0] == 1
    greedy = simulated(capsys, file, "--runs", "2", "--policy", "greedy")
    assert greedy["endings"]["dawn"][0] == 1  # of equals the first
    for args, words in (
        (["--choices", "tend"], "--policy scripted"),
        (["--policy", "scripted"], "--choices"),
        (["--policy", "model"], "--model"),
        (["--policy", "scripted", "--choices", "nothing"], "no open option 'nothing'"),
        (["--runs", "0"], "--runs"),
        (["--runs", "1000001"], "--runs is 1,000,001; it must be at most 1,000,000"),
        (["--max_steps", "1000000000"], "--max_steps is 1,000,000,000; it must be at most 100,000"),
        (["--gate_plays", "-1"], "--gate_plays"),
        (["--gate_plays", "9000000"], "--gate_plays is 9,000,000"),
        (["--policy", "model", "--model", "nowhere", "--temperature", "-1"], "--temperature=-1.0 must be a number"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(["simulate", file, *args])
        assert caught.value.code == 2
        assert words in capsys.readouterr().err


def test_a_language_model_chooses(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_lm("llama", scale=4.0).save_pretrained(tmp_path / "lm")
    tokenizer().save_pretrained(tmp_path / "lm")
    args = [file, "--runs", "3", "--policy", "model", "--model", str(tmp_path / "lm")]
    sure = simulated(capsys, *args, "--temperature", "0")
    table = {row["name"]: row["value"] for row in sure["measures"]}
    assert table["path_diversity"] == pytest.approx(1 / 3)  # the likeliest is always the same
    assert simulated(capsys, *args, "--temperature", "0", "--seed", "9")["endings"] == sure["endings"]
    with pytest.raises(SystemExit) as caught:
        main(["simulate", file, "--policy", "model", "--model", str(tmp_path / "nowhere")])
    assert caught.value.code == 2


def test_traces_have_every_step(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["simulate", file, "--runs", "5", "--traces", str(tmp_path / "plays.jsonl")])
    rows = [json.loads(line) for line in (tmp_path / "plays.jsonl").read_text().splitlines()]
    assert len(rows) == 5 * 5  # four steps and an end
    assert [row["play"] for row in rows if "outcome" in row] == [0, 1, 2, 3, 4]
    assert "dead ends   0.0%" in capsys.readouterr().out


def test_nudge_and_tie_change_plays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    effect = {"variable": "x", "op": "nudge", "value": 0.5}
    ways = [{"desirability": 1, "after_effects": [effect], "next_encounter": to} for to in ("low", "high")]
    scenes = [{"id": "a", "text": "", "options": [{"id": "o", "text": "", "gates": [], "reactions": ways}]}]
    scenes += [{"id": name, "text": "", "options": []} for name in ("low", "high")]
    world = {"characters": {}, "initial_state": {"x": 0.5}, "properties": {}, "encounters": scenes}
    file = tmp_path / "w.json"
    file.write_text(json.dumps(world))
    assert simulated(capsys, str(file), "--runs", "1")["endings"]["low"][0] == 1
    assert simulated(capsys, str(file), "--runs", "1", "--reaction_tie", "last")["endings"]["high"][0] == 1
    for nudge, x in (("asymptotic", 0.75), ("additive", 1)):
        main(["play", str(file), "--policy", "random", "--runs", "1", "--nudge", nudge, "--trace", str(tmp_path / "t")])
        assert json.loads((tmp_path / "t").read_text().splitlines()[-1])["state"] == {"x": x}


def test_the_page_shows_the_world_and_plays_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["simulate", str(LIGHT), "--runs", "40", "--out", str(tmp_path / "page.html")])
    page = (tmp_path / "page.html").read_text()
    found = check(page)
    assert found.ids[:9] == [
        "endings",
        "graph",
        "course",
        "gates",
        "measures",
        "structure",
        "play",
        "issues",
        "settings",
    ]
    assert found.tags["svg"] >= 3
    assert 'class="player"' in page
    assert "asymptotic" in page
    assert f"page        {tmp_path / 'page.html'}" in capsys.readouterr().out.replace("\n", "")


def test_the_page_is_the_same_whenever_it_is_made(file: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        main(["simulate", file, "--runs", "30", "--gate_plays", "10", "--out", str(tmp_path / name)])
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()


@pytest.mark.parametrize("seed", range(6))
def test_any_world_has_a_page(seed: int, tmp_path: Path) -> None:
    file = tmp_path / "w.json"
    file.write_text(json.dumps(scripted_world(seed)))
    main(["simulate", str(file), "--runs", "10", "--gate_plays", "3", "--out", str(tmp_path / "p.html")])
    check((tmp_path / "p.html").read_text())


def test_hostile_names_and_texts_stay_text(tmp_path: Path) -> None:
    text = json.dumps(lighthouse()).replace("Mara", "MARA")
    value = json.loads(text.replace("MARA", ATTACK.replace("\\", "\\\\").replace('"', "'").replace("\x00", "")))
    for encounter in value["encounters"]:
        encounter["text"] = encounter["title"] = ATTACK
        for option in encounter["options"]:
            option["text"] = option["id"] = ATTACK
    file = tmp_path / "w.json"
    file.write_text(json.dumps(value))
    main(["simulate", str(file), "--runs", "10", "--out", str(tmp_path / "p.html")])
    page = (tmp_path / "p.html").read_text()
    found = check(page)
    assert found.tags["script"] == 2  # the world's plan, and the page's own
    assert "img" not in found.tags
    assert "\u202e" not in page
