"""Bad and hostile worlds that need an engine: bounded time for each, an answer for each, and never an exception."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lit_narrative.cli.main import main
from lit_narrative.tasks.storyworld.formats.files import read_any
from lit_narrative.tasks.storyworld.report.world_graph import draw_world
from lit_narrative.tasks.storyworld.simulator.exact import exact
from lit_narrative.tasks.storyworld.simulator.profile import profile
from lit_narrative.tasks.storyworld.simulator.statistics import simulate
from lit_narrative.tasks.storyworld.verifiers.score import score
from tests.report.check_page import check
from tests.tasks.storyworld.engine_worlds import scripted_world
from tests.tasks.storyworld.formats.test_files import BAD
from tests.tasks.storyworld.lighthouse import Json, encounter, make, option, read

WILD = {"id": "on", "text": "", "gates": [], "reactions": [{"after_effects": [], "next_encounter": "wild"}]}
TRUE = {"all": []}


def deep(depth: int) -> Any:
    script: Any = "logs"
    for _ in range(depth):
        script = ["nudge", script, 0.1]
    return script


def ways(reactions: list[Json], **more: Any) -> Json:
    return {"id": "go", "text": "", "gates": [], "reactions": reactions, **more}


def leading(**more: Any) -> Json:
    return {"after_effects": [], "next_encounter": "a", **more}


LARGE: dict[str, Callable[[int], Json]] = {
    "selection among many": lambda n: make(
        *[{**encounter(f"e{i}", WILD), "desirability": ["neg", "logs"]} for i in range(n // 130)]
    ),
    "turns that never come": lambda n: make(
        encounter("a", WILD), *[{**encounter(f"e{i}"), "turns": [i + 9, i + 9]} for i in range(n // 70)]
    ),
    "many reactions": lambda n: make(encounter("a", ways([leading(desirability="logs") for _ in range(n // 75)]))),
    "many effects": lambda n: make(
        encounter(
            "a", ways([leading(after_effects=[{"variable": "logs", "op": "set", "value": deep(3)}] * (n // 110))])
        )
    ),
    "many conditions": lambda n: make(
        encounter("a", ways([leading(desirability=1)], gates=[{"not": {"happened": f"e{i}"}} for i in range(n // 32)]))
    ),
    "many scripts of full depth": lambda n: make(
        encounter("a", *[ways([leading(desirability=deep(23)), leading()]) for _ in range(n // 550)])
    ),
    "a script as wide as there may be": lambda n: make(
        encounter("a", *[ways([leading(desirability=["+", *["logs"] * 9000]), leading()]) for _ in range(n // 80_000)])
    ),
    "many spools": lambda n: {
        **make(encounter("a", WILD), *[{**encounter(f"e{i}", WILD), "spools": [f"s{i}"]} for i in range(n // 150)]),
        "spools": {f"s{i}": True for i in range(n // 150)},
    },
}


def look_at(text: str) -> None:
    result = score(text)
    assert result.world is not None
    _ = result.issues, result.parts
    simulate(result.world, 2, 0)
    profile(result.world)
    draw_world(result.world, "large")
    exact(result.world, 5, 100)


@pytest.mark.parametrize("name", LARGE)
def test_a_large_world_has_answers_in_bounded_time(name: str) -> None:
    text = json.dumps(LARGE[name](2**16), separators=(",", ":"))
    start = time.thread_time()
    look_at(text)
    assert time.thread_time() - start < 4


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_half_a_megabyte_has_answers_in_bounded_time(name: str) -> None:
    text = json.dumps(LARGE[name](2**19), separators=(",", ":"))
    start = time.thread_time()
    look_at(text)
    # A busy machine takes twice as long.
    assert time.thread_time() - start < 15


@pytest.mark.parametrize("seed", (0, 4, 8))
def test_any_part_may_be_junk(seed: int) -> None:
    value = scripted_world(seed)
    scenes = value["encounters"]
    junk = [None, [], {}, "x", 1e308, -1, True, ["+"], ["eval", "1"], [["+", 1]], {"expr": ["if", 1, 2, 3]}]
    for number, other in enumerate(junk):
        scene = scenes[number % 7]
        part = [scene, scene["options"][0], (scene["options"][0]["reactions"] or [scene])[0]][seed // 4 % 3]
        part[sorted(part)[(number + seed) % len(part)]] = other
        text = json.dumps(value)
        result = score(text)
        _ = result.parts
        if result.world is not None:
            simulate(result.world, 3, 0)
            profile(result.world)
        value = scripted_world(seed)
        scenes = value["encounters"]


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_simulated_or_refused_in_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, page = tmp_path / "world.json", tmp_path / "page.html"
    file.write_text(BAD[name], encoding="utf-8")
    start = time.thread_time()
    try:
        main(["simulate", str(file), "--runs", "3", "--max_steps", "20", "--gate_plays", "2", "--out", str(page)])
        check(page.read_text(encoding="utf-8"))
    except SystemExit as caught:
        assert caught.code == 2
        assert read_any(BAD[name]).world is None or not read_any(BAD[name]).world.encounters  # type: ignore[union-attr]
        error = capsys.readouterr().err
        assert "world.json" in error and error.count("\n") == 1
    assert time.thread_time() - start < 10


def test_a_loop_without_a_way_out_is_cut_off() -> None:
    round_ = ways([{"after_effects": [{"variable": "logs", "op": "set", "value": ["*", "logs", "logs"]}],
                    "next_encounter": "a", "desirability": 1}, leading()])  # fmt: skip
    result = simulate(read(make(encounter("a", round_), encounter("b", option("x", None)))), 5, 0, max_steps=500)
    assert result.outcomes == {"timeout": 1}
    assert result.variables["logs"].mean == 5  # the bound, not infinity
    free = read({**make(encounter("a", round_)), "properties": {}})
    assert simulate(free, 2, 0, max_steps=500).variables["logs"].mean == 1e9
