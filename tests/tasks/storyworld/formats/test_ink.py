"""The writer of ink: texts that mean nothing to it, worlds that it cannot say, the same endings in its own runtime."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lit_narrative.errors import UserError
from lit_narrative.tasks.storyworld.formats.branching import Code, decimal, identifiers, most_desirable
from lit_narrative.tasks.storyworld.formats.ink import escaped, write_ink
from lit_narrative.tasks.storyworld.generator import Skew, corpus
from lit_narrative.tasks.storyworld.scripts import compile_condition, compile_expr
from lit_narrative.tasks.storyworld.world import World
from tests.tasks.storyworld.lighthouse import beacon, encounter, lighthouse, make, option, read
from tests.tasks.storyworld.reference_play import every_path

RICH = Skew(encounters=(0, 0, 0.4, 0.3, 0.3), second_ending=0.9, gates=0.6, variables=(0, 0, 1), options=(0, 0.6, 0.4))
COMPILER = Path(os.environ.get("LIT_INKJS", "inkjs"), "bin", "inkjs-compiler.js")
HOSTILE = "-> END\n* [a] {x} // no\n~ y = 1\n=== k\nVAR z = 2\n# tag | \\ <> \u2028 done"


def scripted() -> World:
    """A world whose choices are decided by desirability, and whose effects are scripts of every kind."""
    value = lighthouse()
    value["initial_state"]["mood"] = 0.25
    value["properties"]["mood"] = {"min": -1, "max": 1}
    effects = [
        {"variable": "mood", "op": "nudge", "value": ["near", "Mara_trust", "Teo_trust"]},
        {"variable": "mood", "op": "add", "value": ["blend", 0.1, "mood", ["clamp", "oil", -1, 1]]},
        {"variable": "Teo_trust", "op": "set", "value": ["bounded_sum", "mood", ["neg", ["abs", "Teo_trust"]]]},
        {
            "variable": "mood",
            "op": "set",
            "value": ["min", ["max", "mood", -0.5], ["mean", "mood", 1], ["distance", 1, 0]],
        },
    ]
    shown = {"any": [{"variable": "mood", "comparison": ">", "value": 0.3}, {"expr": ["<", "oil", ["*", 2, "mood"]]}]}
    odd = {"expr": ["xor", shown, {"not": {"variable": "oil", "comparison": "==", "value": 2}}]}
    first = value["encounters"][0]["options"][0]
    first["reactions"][0].update(after_effects=effects, text="It burns.")
    first["reactions"].append({**first["reactions"][0], "next_encounter": "cellar", "desirability": ["-", "oil", 2.5]})
    value["encounters"][1]["options"][1]["gates"] = [odd]
    value["encounters"][2]["options"][0]["performable"] = [{"expr": ["same", shown, odd]}]
    return read(value)


def few_paths(world: World) -> bool:
    """Whether a world has plays enough to be worth following, and not so many that it takes long."""
    return 3 < len(list(every_path(world))) < 100


WORLDS = [
    read(lighthouse()),
    scripted(),
    *[world for row in corpus(10, 3, RICH) if few_paths(world := read(json.loads(row.completion)))],
    read(make(encounter("hut", option("burn", None, {"logs": -1}, [("logs", ">", 5)])))),  # no option is open
    read(
        make(encounter("hut", option("go", "yard")), encounter("yard", option("burn", "hut", {}, [("logs", ">", 5)])))
    ),
    read(make(encounter(HOSTILE, {**option("go", "night"), "text": HOSTILE}), {**encounter("night"), "text": HOSTILE})),
]


def test_text_means_nothing_to_ink() -> None:
    assert escaped("a -> b") == "\\a \\-\\> b"
    assert escaped("VAR x\n\n* y") == "\\VAR x\n\\* y"
    for line in escaped(HOSTILE).splitlines():
        assert line.startswith("\\")


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"next_encounter": "wild"}, "leaves what follows to the engine"),
        ({"after_effects": [{"spool": "a", "active": True}]}, "changes a spool"),
        ({"desirability": ["if", {"happened": "hut"}, 1, 0]}, "asks what has happened"),
    ],
)
def test_what_ink_cannot_say_is_refused_with_the_place(part: dict[str, Any], message: str) -> None:
    value = make(encounter("hut", option("go", "night")), encounter("night"))
    value["encounters"][0]["options"][0]["reactions"][0].update(part)
    with pytest.raises(UserError, match=f"option 'go' of encounter 'hut' {message}"):
        write_ink(read(value))
    with pytest.raises(UserError, match="ink cannot say"):
        write_ink(read(beacon()))


def test_names_and_numbers() -> None:
    names = identifiers(["Mara trust", "Mara_trust", "Ärger", "a" * 99], "v")
    assert list(names.values()) == ["v0_Mara_trust", "v1_Mara_trust", "v2_rger", f"v3_{'a' * 40}"]
    assert [decimal(number) for number in (3, 0.1, -1e9, 1e-9)] == ["3.0", "0.1", "-1000000000.0", "0.000000001"]
    assert most_desirable(["a", "b", "c"]) == ["((a >= b) && (a >= c))", "((b >= c))"]


def test_code_means_what_the_script_means() -> None:
    """Evaluated by Python, whose signs are the same but for the logical ones."""
    world = scripted()
    slots = {name: i for i, name in enumerate(world.variables)}
    state = [0.3, -0.2, 2.0, 0.4]
    names: dict[str, Any] = {f"v{i}": value for i, value in enumerate(state)}
    names |= {"f_abs": abs, "f_min": min, "f_max": max, "f_choose": lambda c, a, b: a if c else b}
    names["f_clamp"] = lambda x, low, high: min(max(x, low), high)
    names["f_near"] = lambda a, b: min(max(0.99 - abs(a - b), -0.99), 0.99)
    names["f_distance"] = lambda a, b: abs(a - b)
    names["f_blend"] = lambda a, b, w: a * (1 - w) / 2 + b * (1 + w) / 2
    names["f_bounded_sum"] = lambda a, b: compile_expr_of(a, b)
    code = Code({name: f"v{i}" for i, name in enumerate(world.variables)}, lambda name: f"f_{name}", 1e-9)
    scripts = [effect.value for effect in world.encounters[0].options[0].reactions[0].effects]  # type: ignore[union-attr]
    for script in scripts:
        assert script is not None
        text = code.node(script).replace("!", " not ").replace("&&", "and").replace("||", "or")
        assert eval(text, names) == pytest.approx(compile_expr(script, slots)(state))
    for condition in (*world.encounters[1].options[1].gates, *world.encounters[2].options[0].performable):
        text = code.node(condition).replace("!=", "~").replace("!", " not ").replace("~", "!=")
        value = eval(text.replace("&&", "and").replace("||", "or"), names)
        assert value is compile_condition(condition, slots)(state)


def compile_expr_of(a: float, b: float) -> float:
    from lit_narrative.tasks.storyworld.scripts import bounded_sum

    return bounded_sum(a, b)


def ink_paths(text: str, folder: Path) -> list[tuple[tuple[int, ...], str]]:
    """Every play in ink's own runtime, by the positions of the choices taken."""
    from bink.story import Story

    (folder / "world.ink").write_text(text, encoding="utf-8")
    command = ["node", str(COMPILER), "-o", str(folder / "world.json"), str(folder / "world.ink")]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    compiled = (folder / "world.json").read_text(encoding="utf-8-sig")

    def at(state: str | None) -> Any:
        story = Story(compiled)
        if state is not None:
            story.load_state(state)
        return story

    first = at(None)
    first.continue_maximally()
    pending, found = [(first.save_state(), ())], []
    while pending:
        state, taken = pending.pop()
        story = at(state)
        count = len(story.get_current_choices())
        if not count:
            found.append((taken, story.get_variable("ending")))
        elif len(taken) < 12:
            for i in range(count):
                story = at(state)
                story.choose_choice_index(i)
                story.continue_maximally()
                pending.append((story.save_state(), (*taken, i)))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS, ids=range(len(WORLDS)))
def test_inks_own_runtime_comes_to_the_same_endings(world: World, tmp_path: Path) -> None:
    pytest.importorskip("bink", reason="ink's runtime: pip install -e '.[ink]'")
    if shutil.which("node") is None or not COMPILER.exists():
        pytest.skip("ink's compiler: npm install inkjs, and LIT_INKJS=node_modules/inkjs")
    expected = [(len(taken), ending or "") for taken, ending in every_path(world)]
    found = [(len(taken), ending) for taken, ending in ink_paths(write_ink(world), tmp_path)]
    assert sorted(found) == sorted(expected)
