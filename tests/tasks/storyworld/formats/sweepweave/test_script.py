"""Scripts of SweepWeave as expressions: the values that every operator is to have, and scripts that make no sense."""

import functools
import json
from typing import Any

import pytest

from lit_narrative.tasks.storyworld.expressions import ALWAYS, NEVER, Apply, Gate, Happened, Holds, Node, Not
from lit_narrative.tasks.storyworld.formats.sweepweave.cast import Cast
from lit_narrative.tasks.storyworld.formats.sweepweave.script import Scripts
from lit_narrative.tasks.storyworld.formats.sweepweave.script_nodes import ScriptNodes
from lit_narrative.tasks.storyworld.issues import Notes
from lit_narrative.tasks.storyworld.scripts import Slot, compile_condition, compile_expr
from tests.paths import GOLDEN

FILE = GOLDEN / "storyworld_recommended.json"
CAST = {
    "characters": [
        {"id": "char_a", "bnumber_properties": {"X": 0.4, "Y": -0.6, "Z": {"char_b": 0.7}}},
        {"id": "char_b", "bnumber_properties": {}},
    ],
    "authored_properties": [{"id": name, "default_value": 0, "depth": 0} for name in "XY"],
}


def reader() -> Scripts:
    notes = Notes()
    return Scripts(Cast(CAST, notes), notes)


def pointer(*keys: str, coefficient: float = 1) -> dict[str, Any]:
    kind = {"pointer_type": "Bounded Number Pointer", "script_element_type": "Pointer"}
    return {**kind, "character": "char_a", "keyring": list(keys), "coefficient": coefficient}


def constant(value: Any) -> dict[str, Any]:
    return {"pointer_type": "Bounded Number Constant", "script_element_type": "Pointer", "value": value}


def operator(kind: str, *operands: Any, subtype: str = "") -> dict[str, Any]:
    node = {"operator_type": kind, "script_element_type": "Operator", "operands": list(operands)}
    return {**node, "operator_subtype": subtype} if subtype else node


def compare(left: Any, sign: str, right: Any) -> dict[str, Any]:
    return operator("Arithmetic Comparator", left, right, subtype=sign)


@functools.cache
def vectors() -> dict[str, Any]:
    return {case["name"]: case for case in json.loads(FILE.read_text(encoding="utf-8"))["scripts"]}


NAMES = list(vectors()) if FILE.exists() else [pytest.param("absent", marks=pytest.mark.skip(f"no {FILE}"))]


def evaluated(node: Node, scripts: Scripts, state: dict[str, float]) -> float | bool:
    values = {**scripts.cast.values, **state}
    slots: dict[Slot, int] = {name: i for i, name in enumerate(values)}
    compiled = compile_expr if isinstance(node, float | str | Apply) else compile_condition
    return compiled(node, slots)(list(values.values()))  # type: ignore[operator]


@pytest.mark.golden
@pytest.mark.parametrize("name", NAMES)
def test_every_operator_has_the_recommended_value(name: str) -> None:
    case = vectors()[name]
    state = json.loads(FILE.read_text(encoding="utf-8"))["state"]
    scripts, expected = reader(), case["recommended"]
    if isinstance(expected, bool):
        assert evaluated(scripts.condition(case["script"], ()), scripts, state) is expected
    elif expected is None:  # neutral: a number 0, and a condition that holds
        assert evaluated(scripts.expr(case["script"], ()), scripts, state) == 0
        assert evaluated(scripts.condition(case["script"], ()), scripts, state) is True
        assert scripts.notes.issues()
    else:
        assert evaluated(scripts.expr(case["script"], ()), scripts, state) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (True, ALWAYS),
        (False, NEVER),
        (None, ALWAYS),
        ({"pointer_type": "Boolean Constant", "value": False}, NEVER),
        (compare(pointer("X"), "GTE", constant(0.2)), Gate("char_a.X", ">=", 0.2)),
        (compare(constant(0.2), "GTE", pointer("X")), Gate("char_a.X", "<=", 0.2)),
        (compare(pointer("X", coefficient=-2), "Less Than", constant(0.2)), Gate("char_a.X", ">", -0.1)),
        (compare(pointer("Z", "char_b"), "NEQ", constant(1)), Gate("char_a.Z[char_b]", "!=", 1.0)),
        (compare(pointer("X"), "GT", pointer("Y")), Holds(Apply(">", ("char_a.X", "char_a.Y")))),
        (compare(pointer("X"), "about", constant(1)), NEVER),
        (operator("Boolean Comparator", True, subtype="NOT"), Not(ALWAYS)),
        (operator("Boolean Comparator", True, False, subtype="XOR"), Holds(Apply("xor", (ALWAYS, NEVER)))),
        (operator("Boolean Comparator", True, False, subtype="EQUALS"), Holds(Apply("same", (ALWAYS, NEVER)))),
        ({"pointer_type": "Event Pointer", "encounter": "hut", "option": 1, "reaction": -1}, Happened("hut", 1)),
        ({"pointer_type": "Event Pointer", "encounter": "hut", "negated": True}, Not(Happened("hut"))),
        ({"pointer_type": "Event Pointer", "encounter": None}, ALWAYS),
        (constant(0.3), ALWAYS),
        (constant(0), NEVER),
        (pointer("X"), Holds("char_a.X")),
        ([], ALWAYS),
        ("yes", ALWAYS),
        ({"pointer_type": "Tarot Card"}, ALWAYS),
        ({"pointer_type": ["Tarot Card"]}, ALWAYS),
    ],
)
def test_conditions(script: Any, expected: Any) -> None:
    scripts = reader()
    assert scripts.condition(script, ()) == expected


def test_a_script_that_is_and_is_a_list_of_conditions() -> None:
    gates = compare(pointer("X"), "GTE", constant(0.2)), compare(pointer("Y"), "LT", constant(0))
    assert reader().conditions(operator("And", *gates), ()) == (Gate("char_a.X", ">=", 0.2), Gate("char_a.Y", "<", 0.0))
    assert reader().conditions(True, ()) == ()
    assert reader().conditions(False, ()) == (NEVER,)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (operator("Frobnicate", pointer("X")), "unknown operator"),
        (operator("Nudge", pointer("X")), "takes 2 operands"),
        (operator("Desideratum", 0, 0, 0), "the first 2 count"),
        ({"operator_type": "Addition", "operands": {}}, "must be a list"),
        (constant("0.3"), "needs a number"),
        (constant(1e308), "needs a number"),
        (constant("2024-01-01"), "needs a number"),
        ({"pointer_type": "Tarot Card"}, "unknown pointer"),
        ({**pointer("X"), "keyring": []}, "keyring"),
        ({**pointer("X"), "character": "char_aa"}, "no character 'char_aa'"),
        (pointer("Courage"), "not authored"),
        ({**pointer("X"), "coefficient": "2"}, "coefficient"),
        ("text", "must be a node"),
    ],
)
def test_what_makes_no_sense_is_noted_and_neutral(script: Any, message: str) -> None:
    scripts = reader()
    node = scripts.expr(script, ("here",))
    (issue,) = scripts.notes.issues()
    assert message in issue.message
    assert issue.path.startswith("$.here")
    assert evaluated(node, scripts, {}) == pytest.approx(0.99 if "Desideratum" in str(script) else 0, abs=0.5)


def test_a_misspelled_character_is_mended_by_the_nearest() -> None:
    scripts = reader()
    scripts.expr({**pointer("X"), "character": "char_bb"}, ())
    assert scripts.notes.issues()[0].repair == "write 'char_b'"


def test_issues_of_one_kind_are_counted() -> None:
    scripts = reader()
    for i in range(500):
        scripts.expr(operator("Frobnicate"), (i,))
    issues = scripts.notes.issues()
    assert len(issues) == 10
    assert "490 more" in issues[-1].message


def test_deep_and_wide_scripts_are_left_out() -> None:
    deep = constant(1)
    for _ in range(90):
        deep = operator("Nudge", deep, constant(0.1))
    scripts = reader()
    assert scripts.expr(deep, ()) == 0.0
    assert scripts.expr(operator("Addition", *[constant(0.1)] * 20_000), ()) == 0.0
    assert {"nested deeper" in issue.message or "more than" in issue.message for issue in scripts.notes.issues()} == {
        True
    }


SCRIPTS = [
    constant(0.3),
    pointer("X"),
    pointer("X", coefficient=-0.5),
    pointer("Z", "char_b"),
    operator("Nudge", pointer("X"), constant(0.2)),
    operator(
        "If Then", compare(pointer("X"), "GTE", pointer("Y")), constant(1), operator("Absolute Value", constant(2))
    ),
    *[
        operator(name, pointer("X"), pointer("Y"))
        for name in ("Addition", "Subtraction", "Multiplication", "Arithmetic Mean", "Maximum", "Minimum")
    ],
    *[operator(name, pointer("X"), pointer("Y")) for name in ("Absolute Difference", "Desideratum", "Bounded Sum")],
    *[operator(name, pointer("X"), pointer("Y"), constant(0.5)) for name in ("Blend", "Clamp")],
    operator("Arithmetic Negation", pointer("X")),
]


@pytest.mark.parametrize("script", SCRIPTS, ids=str)
def test_a_script_that_was_read_is_written_as_it_was(script: Any) -> None:
    scripts = reader()
    nodes = ScriptNodes(lambda name: ("char_a", name.removeprefix("char_a.").rstrip("]").split("["), 1.0))
    again = nodes.node(scripts.expr(script, ()))
    assert not scripts.notes.issues()
    assert scripts.expr(again, ()) == scripts.expr(script, ())
    assert again.get("operator_type") == script.get("operator_type")
