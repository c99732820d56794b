"""The play command: at random, and by a person at a real (pseudo) terminal."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from lit_narrative.cli.commands.worlds import play
from lit_narrative.cli.main import main
from lit_narrative.errors import UserError
from lit_narrative.tasks.storyworld.formats.simple import read_world
from lit_narrative.tasks.storyworld.simulator.statistics import simulate
from tests.cli.write.terminal import at_a_terminal


def option(name: str, to: str | None, **more: Any) -> dict[str, Any]:
    reaction = {"text": f"You {name}.", "after_effects": [{"variable": "logs", "change": -1}], "next_encounter": to}
    return {"id": name, "text": name.title(), "gates": [], "reactions": [reaction], **more}


WORLD: dict[str, Any] = {
    "characters": {},
    "initial_state": {"logs": 2},
    "properties": {"logs": {"min": 0}},
    "encounters": [
        {"id": "hut", "text": "Snow falls.", "options": [option("burn", "night"), option("wait", "night")]},
        {
            "id": "night",
            "text": "Night falls.",
            "options": [
                option("open", None, gates=[{"variable": "logs", "comparison": ">=", "value": 2}]),
                option("sleep", "dawn"),
                option("flee", "nowhere"),
            ],
        },
        {"id": "dawn", "text": "Dawn breaks.", "options": []},
    ],
}


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "hut.json"
    path.write_text(json.dumps(WORLD))
    return str(path)


def test_random_plays_print_endings_dead_ends_and_coverage(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["play", file, "--policy", "random", "--runs", "200", "--seed", "1"])
    out = capsys.readouterr().out
    world = read_world(WORLD)[0]
    assert world is not None
    result = simulate(world, 200, 1, max_steps=200)
    assert 0.3 < result.dead_end_rate < 0.7
    assert f"dead ends   {result.dead_end_rate:.1%}" in out
    assert f"coverage    {result.coverage:.1%}" in out
    assert "ending dawn" in out
    assert "open at night: never open" in out
    main(["play", file, "--policy", "random", "--runs", "200", "--seed", "1"])
    assert capsys.readouterr().out == out
    main(["play", file, "--policy", "random", "--runs", "200", "--seed", "2"])
    assert capsys.readouterr().out != out


def played(file: str, *answers: str, seed: int = 1) -> str:
    """What a terminal shows while a person plays."""
    return at_a_terminal(["play", file, "--seed", str(seed)], [answer.encode() for answer in answers], TERM="dumb")


def test_a_person_plays_to_the_end(file: str) -> None:
    shown = played(file, "1\n", "1\n", "two\n", "2\n")
    for line in ("Snow falls.", "1. Burn", "You burn.", "logs 1", "(closed: logs >= 2)", "You sleep.", "The end."):
        assert line in shown
    assert shown.count("that is not an open option") == 2
    assert shown.index("Night falls.") < shown.index("Dawn breaks.") < shown.index("The end.")


def test_a_dead_end_is_named(file: str) -> None:
    assert "Lost: the encounter that should follow does not exist." in played(file, "1\n", "3\n")


def test_an_empty_answer_is_a_seeded_choice(file: str) -> None:
    tales = {seed: played(file, "\n", "2\n", seed=seed) for seed in (1, 2, 3)}
    assert played(file, "\n", "2\n", seed=1) == tales[1]
    assert len({"→ Burn" in tale for tale in tales.values()}) == 2


def test_a_person_may_leave(file: str) -> None:
    assert "left the story" in played(file, "1\n", "\x04")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "no terminal to ask in; play at random with `--policy random`"),
        ({"runs": 0, "policy": "random"}, "--runs is 0; it must be 1 or more"),
        ({"max_steps": 0, "policy": "random"}, "--max_steps is 0; it must be 1 or more"),
        ({"seed": -1, "policy": "random"}, "--seed is -1; it must be 0 or more"),
        ({"runs": 10**9, "policy": "random"}, "--runs is 1,000,000,000; it must be at most 1,000,000"),
        ({"max_steps": 10**9, "policy": "random"}, "--max_steps is 1,000,000,000; it must be at most 100,000"),
    ],
)
def test_what_cannot_be_done_is_one_error(
    file: str, arguments: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        with pytest.raises(UserError, match=says):
            play(file, **arguments)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is no world that can be played: .*not JSON"),
        ('{"encounters": []}', "is no world that can be played"),
        ('{"IFID": "1", "spools": [], "encounters": []}', "a list of properties is missing"),
    ],
)
def test_a_file_that_holds_no_world_is_one_error(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "w.json").write_text(text)
    with pytest.raises(UserError, match=says):
        play(str(tmp_path / "w.json"), policy="random")
    with pytest.raises(UserError, match="there is no file"):
        play(str(tmp_path / "none.json"), policy="random")


def test_a_reader_is_told_of_the_reaction_that_follows(tmp_path: Path) -> None:
    ways = [
        {"text": f"It is {word}.", "desirability": worth, "after_effects": [], "next_encounter": "b"}
        for word, worth in (("dull", 0), ("bright", "light"))
    ]
    state = {"light": 1, **{f"v{i}": 0 for i in range(20)}}
    scenes = [{"id": "a", "text": "Dusk.", "options": [{"id": "go", "text": "Go.", "gates": [], "reactions": ways}]}]
    world = {
        "characters": {},
        "initial_state": state,
        "properties": {},
        "encounters": [*scenes, {"id": "b", "text": "Night.", "options": []}],
    }
    path = tmp_path / "w.json"
    path.write_text(json.dumps(world))
    shown = at_a_terminal(["play", str(path)], [b"1\n"], TERM="dumb")
    assert "It is bright." in shown
    assert "It is dull." not in shown
    assert "v3" not in shown  # of so many variables those that have moved


def test_a_script_is_played_and_told(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "t.jsonl"
    main(["play", file, "--policy", "scripted", "--choices", "wait", "sleep", "--trace", str(trace)])
    out = capsys.readouterr().out
    assert "Wait" in out and "You sleep." in out and "Dawn breaks." in out and "The end." in out
    assert [json.loads(line).get("choice") for line in trace.read_text().splitlines()] == ["wait", "sleep", None, None]
    for policy, words in (("random", "--choices"), ("scripted", "open are")):
        with pytest.raises(SystemExit):
            main(["play", file, "--policy", policy, "--choices", "no"])
        assert words in capsys.readouterr().err
