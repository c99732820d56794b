"""Scripts as functions of the state: each operator, both nudges, bounds on size and value."""

import math
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_narrative.errors import UserError
from lit_narrative.tasks.storyworld.expressions import (
    ALWAYS,
    COMPARISONS,
    LARGEST,
    NEVER,
    OPERATORS,
    Apply,
    Expr,
    Gate,
    Happened,
    Holds,
    Not,
    describe,
    node_json,
    read_condition,
    read_expr,
    variables_read,
)
from lit_narrative.tasks.storyworld.scripts import compile_all, compile_condition, compile_expr, source
from lit_narrative.tasks.storyworld.simulator.plan import is_open, make_plan
from tests.tasks.storyworld.lighthouse import encounter, make, option, read

SLOTS = {"x": 0, "y": 1, Happened("storm", 1): 2}
STATE = [0.4, -0.6, 0.0]
Nodes = st.SearchStrategy[Expr]


def value(script: Any, nudge: Any = "asymptotic", state: list[float] = STATE) -> float:
    expr = read_expr(script)
    assert expr is not None
    return compile_expr(expr, SLOTS, nudge)(state)


def holds(script: Any, state: list[float] = STATE) -> bool:
    condition = read_condition(script)
    assert condition is not None
    return compile_condition(condition, SLOTS)(state)


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (0.25, 0.25),
        ("x", 0.4),
        ("nowhere", 0),
        (["+", "x", "y", 1], 0.8),
        (["+", *["x"] * 12], 4.8),
        (["-", "x", "y", 0.5], 0.5),
        (["-", "x"], 0.4),
        (["*", "x", -2], -0.8),
        (["*", *["x"] * 9], 0.4**9),
        (["mean", "x", "y", 0.5], 0.1),
        (["neg", "x"], -0.4),
        (["abs", "y"], 0.6),
        (["min", "x", "y", 0], -0.6),
        (["max", "x", "y", 0], 0.4),
        (["max", "x"], 0.4),
        (["clamp", 0.7, -0.1, 0.1], 0.1),
        (["clamp", "y", -0.1, 0.1], -0.1),
        (["distance", "x", "y"], 1.0),
        (["near", "x", "x"], 0.99),
        (["near", 5, -5], -0.99),
        (["blend", 0.22, "x", 0], 0.31),
        (["blend", 0.22, "x", 1], 0.4),
        (["nudge", "x", 0.2], 0.52),
        (["nudge", "x", -0.2], 0.12),
        (["bounded_sum", 0.5, 0.5], 2 / 3),
        (["bounded_sum", 0.5, -0.5], 0),
        (["bounded_sum", -0.5, -0.5], -2 / 3),
        (["if", {"variable": "x", "comparison": ">", "value": 0}, 2, 3], 2),
        (["if", {"any": []}, 2, 3], 3),
        ([">=", "x", 0.4], 1),
        (["<", "x", "y"], 0),
        (["xor", {"any": []}, {"all": []}, {"all": []}], 0),
        (["xor", {"any": []}, {"all": []}], 1),
        (["same", {"any": []}, {"not": {"all": []}}], 1),
        (["same", {"any": []}, {"all": []}], 0),
    ],
)
def test_operators(script: Any, expected: float) -> None:
    assert value(script) == pytest.approx(expected, abs=1e-12)


def test_both_readings_of_nudge() -> None:
    assert value(["nudge", "x", 0.2], "additive") == pytest.approx(0.6)
    assert value(["nudge", 0.9, 0.5], "additive") == 1.0
    assert value(["nudge", 0.9, 0.5]) == pytest.approx(0.95)
    with pytest.raises(UserError, match="asymptotic"):
        value(["nudge", "x", 0.2], "other")


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ({"any": []}, False),
        ({"all": []}, True),
        ({"any": [{"any": []}, {"expr": "x"}]}, True),
        ({"all": [{"all": []}, {"not": {"expr": "x"}}]}, False),
        ({"expr": 0}, False),
        ({"expr": ["==", ["-", 0.3, 0.1], 0.2]}, True),  # within the tolerance
        ({"expr": [">", ["-", 0.3, 0.1], 0.2]}, False),
        ({"happened": "storm", "option": 1}, False),
        ({"happened": "nowhere"}, False),
    ],
)
def test_conditions(script: Any, expected: bool) -> None:
    assert holds(script) is expected


def test_what_has_happened_is_read_from_its_slot() -> None:
    assert holds({"happened": "storm", "option": 1}, [0, 0, 1])


@pytest.mark.parametrize("comparison", sorted(COMPARISONS))
@pytest.mark.parametrize("level", [-0.6, 0.3, 0.4, 0.4 - 1e-9, 0.4 + 1e-9, 0.4 + 2e-9])
def test_a_gate_holds_exactly_where_it_does_in_a_plan(comparison: Any, level: float) -> None:
    plan = make_plan(read(make(encounter("hut", option("go", None, None, [("x", comparison, level)])), state={"x": 0})))
    test = compile_condition(Gate("x", comparison, level), SLOTS)
    for x in (level, level - 1e-9, level + 1e-9, level - 1.5e-9, 0.4, -1.0, 1.0):
        assert test([x]) is is_open(plan.scenes[0][0], [x, 0.0])


def test_all_of_several() -> None:
    assert compile_all((), SLOTS)(STATE)
    assert not compile_all((ALWAYS, NEVER), SLOTS)(STATE)
    assert compile_all((Not(NEVER), Holds("y")), SLOTS)(STATE)


def test_no_value_is_infinite_or_no_number() -> None:
    power = ["*", *["x"] * 200]
    assert value(power, state=[1e9, 0, 0]) == LARGEST
    assert value(["neg", power], state=[1e9, 0, 0]) == -LARGEST
    assert value(["-", power, power], state=[1e9, 0, 0]) == 0.0
    assert math.isfinite(value(["bounded_sum", 1, 1, -1, 7], state=[1e9, 0, 0]))


def test_scripts_past_the_bounds_are_refused() -> None:
    deep: Expr = "x"
    for _ in range(40):
        deep = Apply("neg", (deep,))
    with pytest.raises(ValueError, match="nested deeper"):
        compile_expr(deep, SLOTS)
    shared: Expr = "x"
    for _ in range(24):  # sixteen million parts, were it written out
        shared = Apply("+", (shared, shared))
    start = time.thread_time()
    with pytest.raises(ValueError, match="more than"):
        compile_expr(shared, SLOTS)
    assert time.thread_time() - start < 1
    assert value(["+", *["x"] * 9000]) == pytest.approx(3600)


def test_the_source_names_nothing_that_a_file_says() -> None:
    hostile = "__import__('os')"
    assert source(Apply("+", (hostile, "x")), SLOTS) == "(0.0 + s[0])"
    assert hostile not in source(Gate(hostile, ">=", 0.0), {hostile: 3})
    with pytest.raises(ValueError, match="operator"):
        source(Apply(hostile, ("x",)), SLOTS)


def _applied(inner: Nodes) -> Nodes:
    def build(op: str) -> Nodes:
        least, most = OPERATORS[op]
        if op in ("if", "xor", "same"):
            condition = inner.map(Holds) | st.sampled_from([ALWAYS, Not(NEVER)])
            return st.tuples(condition, *([inner] * 2 if op == "if" else [condition])).map(lambda args: Apply(op, args))
        return st.lists(inner, min_size=least, max_size=most or 4).map(lambda args: Apply(op, tuple(args)))

    return st.sampled_from(sorted(OPERATORS)).flatmap(build)


EXPRESSIONS = st.recursive(st.floats(-10, 10) | st.sampled_from(["x", "y", "z"]), _applied, max_leaves=12)


@settings(max_examples=150, deadline=None)
@given(EXPRESSIONS, st.lists(st.floats(-1e9, 1e9), min_size=3, max_size=3))
def test_any_expression_is_written_read_compiled_and_bounded(expr: Expr, state: list[float]) -> None:
    assert read_expr(node_json(expr)) == expr
    assert -LARGEST <= compile_expr(expr, SLOTS)(state) <= LARGEST
    assert set(variables_read(expr)) <= {"x", "y", "z"}
    assert isinstance(describe(expr), str)


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        (Gate("oil", ">=", 2.0), "oil >= 2"),
        (NEVER, "never"),
        (Not(ALWAYS), "not always"),
        (Holds(Apply(">", (Apply("+", ("x", 1.0)), Apply("abs", ("y",))))), "(x + 1) > abs(y)"),
        (Happened("storm"), "storm has been met"),
    ],
)
def test_words_for_people(condition: Any, words: str) -> None:
    assert describe(condition) == words
