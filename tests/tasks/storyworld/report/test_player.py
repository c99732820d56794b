"""Worlds to play on the page: which are offered, and that the script plays them as the simulator does."""

import json
import shutil
import subprocess
from dataclasses import replace
from importlib.resources import files
from typing import Any

import numpy as np
import pytest

from lit_narrative.tasks.storyworld.formats.parse import parse
from lit_narrative.tasks.storyworld.formats.simple import read_world
from lit_narrative.tasks.storyworld.generator import example
from lit_narrative.tasks.storyworld.report.player import embedded, plan_json, player
from lit_narrative.tasks.storyworld.report.run import Run, Sample
from lit_narrative.tasks.storyworld.scripts import Nudge
from lit_narrative.tasks.storyworld.simulator.engine import Engine, ReactionTie
from lit_narrative.tasks.storyworld.simulator.play import Play, plays
from lit_narrative.tasks.storyworld.verifiers.score import score
from lit_narrative.tasks.storyworld.world import World
from tests.report.check_page import ATTACK
from tests.tasks.storyworld.engine_worlds import scripted_worlds
from tests.tasks.storyworld.report.make_run import POOR, RICH

DRIVER = """
const { begin, choose, isOpen, outcome } = require(process.argv[1]);
const answers = JSON.parse(require("fs").readFileSync(0, "utf8")).map(({ plan, choices }) => choices.map((made) => {
  let moment = begin(plan);
  const seen = [];
  const look = () => seen.push([moment.scene, moment.state.slice(0, plan.names.length),
    moment.scene < 0 ? [] : plan.scenes[moment.scene].options.map((option) => isOpen(option, moment.state))]);
  look();
  for (const position of made) { moment = choose(plan, moment, position); look(); }
  return { seen, outcome: outcome(plan, moment) };
}));
console.log(JSON.stringify(answers));
"""


def world_of(text: str) -> World:
    world, _ = read_world(parse(text).value)
    assert world is not None
    return world


def option(target: Any = "b", gates: list[Any] | None = None, effects: list[Any] | None = None) -> dict[str, Any]:
    changes = [{"variable": name, "change": change} for name, change in effects or []]
    tests = [{"variable": name, "comparison": sign, "value": value} for name, sign, value in gates or []]
    return {
        "id": "o",
        "text": "go",
        "gates": tests,
        "reactions": [{"after_effects": changes, "next_encounter": target}],
    }


def odd_worlds() -> list[dict[str, Any]]:
    """Worlds that a generator does not make: bounds, every comparison, every way to end, names that objects have."""
    signs = [
        option("a", [("x", sign, 0.3)], [("x", 0.1), ("x", 0.1), ("y", -7)])
        for sign in (">=", "<=", ">", "<", "==", "!=")
    ]
    silent = {"id": "s", "text": "", "gates": [], "reactions": [{"after_effects": [{"variable": "x", "change": 2}]}]}
    walked = option("b", effects=[("x", 1)])
    walked["reactions"] = [{"text": "first", "after_effects": [{"variable": "y", "change": 1}]}, *walked["reactions"]]
    walked["reactions"].append({"after_effects": [{"variable": "y", "change": 100}], "next_encounter": "a"})
    names = {"__proto__": 1, "constructor": 2, "toString": 0.5}
    return [
        {
            "initial_state": {"x": 0.1, "y": 5},
            "properties": {"x": {"min": 0, "max": 0.5}, "y": {"min": -3}},
            "encounters": [
                {"id": "a", "text": "", "options": [*signs, option(None), option("nowhere"), silent, walked]},
                {"id": "b", "text": "", "options": [option("a", [("x", ">", 9)])]},
                {"id": "a", "text": "again", "options": []},
            ],
        },
        {
            "initial_state": names,
            "encounters": [
                {
                    "id": "__proto__",
                    "text": "",
                    "options": [
                        option("constructor", [("__proto__", "==", 1)], [("__proto__", 3), ("absent", 1)]),
                        option("constructor", [("absent", "==", 0), ("constructor", ">=", 2)]),
                    ],
                },
                {"id": "constructor", "text": "", "options": [option("__proto__", [("absent", "!=", 0)])]},
            ],
        },
        {"initial_state": {}, "encounters": [{"id": "only", "text": "", "options": []}]},
        {
            "initial_state": {"x": 0},
            "encounters": [{"id": "round", "text": "", "options": [option("round", effects=[("x", 0.1)])]}],
        },
    ]


def played_by_node(plans: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed: it runs the page's script outside of a browser")
    path = str(files("lit_narrative.tasks.storyworld.report") / "templates" / "player.js")
    done = subprocess.run(
        [node, "-e", DRIVER, path], input=json.dumps(plans), capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def test_the_script_plays_as_the_simulator_does() -> None:
    skews = [RICH, POOR]
    worlds = [world_of(example(index, 3, skews[index % 2], "test").completion) for index in range(40)]
    worlds += [world_of(json.dumps(value)) for value in odd_worlds()]
    rng = np.random.default_rng(0)
    made = [list(plays(world, 12, rng)) for world in worlds]
    assert {one.outcome for several in made for one in several} == {
        "ending",
        "implicit",
        "stuck",
        "dangling",
        "timeout",
    }
    plans = [
        {
            "plan": plan_json(world),
            "choices": [[s.choice for s in one.steps if s.choice is not None] for one in several],
        }
        for world, several in zip(worlds, made, strict=True)
    ]
    for several, answers in zip(made, played_by_node(plans), strict=True):
        for one, answer in zip(several, answers, strict=True):
            check_same(one, answer)


@pytest.mark.parametrize(("nudge", "tie"), [("asymptotic", "first"), ("additive", "last")])
def test_the_script_plays_as_the_engine_does(nudge: Nudge, tie: ReactionTie) -> None:
    engines = [Engine(world, nudge, tie) for world in scripted_worlds(120)]
    rng = np.random.default_rng(0)
    made = [list(plays(engine, 8, rng)) for engine in engines]
    assert {one.outcome for several in made for one in several} >= {"ending", "implicit", "stuck", "dangling"}
    plans = [
        {"plan": plan_json(engine), "choices": [choices(one) for one in several]}
        for engine, several in zip(engines, made, strict=True)
    ]
    for several, answers in zip(made, played_by_node(plans), strict=True):
        for one, answer in zip(several, answers, strict=True):
            check_same(one, answer)


def choices(one: Play) -> list[int]:
    return [step.choice for step in one.steps if step.choice is not None]


def check_same(one: Play, answer: dict[str, Any]) -> None:
    assert answer["outcome"] == (None if one.outcome == "timeout" else one.outcome)
    for step, (scene, state, free) in zip(one.steps, answer["seen"], strict=False):
        assert (scene, tuple(free)) == (step.index, step.open)
        assert [round(value, 9) for value in state] == list(step.state.values())
    assert [round(value, 9) for value in answer["seen"][-1][1]] == list(one.state.values())


def test_what_a_text_holds_cannot_leave_its_place() -> None:
    value = {
        "initial_state": {ATTACK: 1},
        "encounters": [{"id": ATTACK, "text": ATTACK * 400, "options": [option(ATTACK)]}],
    }
    text = embedded(plan_json(world_of(json.dumps(value))))
    assert text.isascii() and not set("<>&") & set(text) and len(text) < 6000
    shown = json.loads(text)["scenes"][0]["text"]
    assert shown.startswith("</pre></script>") and "\\x00" not in repr(shown) and "\u202e" not in shown


def sound_text(start: int) -> str:
    texts = (example(index, 5, RICH, "test").completion for index in range(start, start + 500))
    return next(text for text in texts if score(text).parts["sound"])


def test_the_best_sound_world_comes_first_and_another_shape_second(run: Run) -> None:
    first, other = sound_text(0), sound_text(200)
    samples = [Sample("p0", first, 0.7), Sample("p1", first, 0.9), Sample("p2", other, 0.8), Sample("p3", "{}", 1.0)]
    body = player(with_samples(run, [], samples)).body
    assert body.count("its best sound world") == 2 and body.index("p1") < body.index("p2")
    assert "p0" not in body and "p3" not in body and "0.90" in body


def test_without_sound_worlds_the_page_says_what_it_offers(run: Run) -> None:
    ending = {"initial_state": {}, "encounters": [{"id": "only", "text": "", "options": []}]}
    body = player(with_samples(run, [Sample("p0", sound_text(0), 0.4)], [Sample("p1", json.dumps(ending), 0.2)])).body
    assert "The final model: its best world; not a sound one" in body and "The SFT model: its best sound world" in body
    section = player(with_samples(run, [], [Sample("p", "{", 0)]))
    assert "holds a world that can be played" in section.body and not section.script


def test_a_world_too_large_to_show_is_not_offered(run: Run) -> None:
    encounters = [{"id": f"e{index}", "text": "", "options": []} for index in range(2000)]
    huge = json.dumps({"initial_state": {}, "encounters": encounters})
    assert 'class="player"' not in player(with_samples(run, [], [Sample("p", huge, 1.0)])).body


def with_samples(run: Run, before: list[Sample], after: list[Sample]) -> Run:
    earlier, later = (replace(test, samples=tuple(s)) for test, s in ((run.before, before), (run.after, after)))
    return replace(run, before=earlier, after=later)
