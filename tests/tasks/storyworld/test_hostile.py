"""Texts that a policy, a fuzzer or an enemy may write: no exception, numbers in 0..1, the same answer twice."""

import copy
import json
import math
import random
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_narrative.tasks.storyworld.formats.files import FILE_LIMITS, read_any
from lit_narrative.tasks.storyworld.formats.parse import Limits, parse
from lit_narrative.tasks.storyworld.formats.simple import read_world
from lit_narrative.tasks.storyworld.similarity import unique_shares
from lit_narrative.tasks.storyworld.simulator.engine import Engine
from lit_narrative.tasks.storyworld.simulator.play import all_paths, play
from lit_narrative.tasks.storyworld.simulator.statistics import simulate
from lit_narrative.tasks.storyworld.verifiers.base import DEFAULT_WEIGHTS, VerifierConfig
from lit_narrative.tasks.storyworld.verifiers.score import score
from tests.tasks.storyworld.lighthouse import encounter, lighthouse, make, option

TEXT = json.dumps(lighthouse(), separators=(",", ":"))
EVERYTHING = VerifierConfig(
    weights={**DEFAULT_WEIGHTS, "json_prefix": 0.0, "playability": 0.0},
    limits=Limits(strip_code_fence=True, allow_trailing_text=True, extract_first_object=True),
)
SPLINTERS = [
    "{", "}", "[", "]", ",", ":", '"', "\\", "null", "true", "-", "0", "1e999", "NaN", "Infinity", "\x00", "\ud800",
    "\\ud800", "\ufeff", "é", '""', "[]", "{}", "9" * 400, '"id"', '"gates":"no"', "next_encounter", "after_effects",
]  # fmt: skip
WRONG: list[Any] = [
    None, True, False, 0, -1, 0.5, 1e308, -1e308, 10**30, "", "x", "storm", "\ud800", [], {}, [[]], [None], {"": None},
    [{}], {"id": {}}, float("nan"), float("inf"), "x" * 300, [1, [2, [3, [4]]]], {"variable": ["oil"]},
]  # fmt: skip
HUGE = 5000


def mutated(rng: random.Random) -> str:
    """The lighthouse's text, cut, doubled, shuffled or sprinkled with splinters."""
    text = TEXT
    for _ in range(rng.randint(1, 6)):
        a, b = sorted((rng.randrange(len(text) + 1), rng.randrange(len(text) + 1)))
        match rng.randrange(5):
            case 0:
                text = text[:a] + text[min(b, a + 20) :]
            case 1:
                text = text[:a] + rng.choice(SPLINTERS) + text[a:]
            case 2:
                text = text[:a] + text[a : min(b, a + 200)] * 2 + text[a:]
            case 3:
                text = text[:a] + rng.choice(SPLINTERS) + text[a + 1 :]
            case 4:
                text = text[:b]
    return text


def mistyped(rng: random.Random) -> str:
    """The lighthouse with values of wrong types at any level."""
    value = lighthouse()
    for _ in range(rng.randint(1, 3)):
        holder: Any = value
        while True:
            keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            if not keys:
                break
            key = rng.choice(keys)
            if rng.random() < 0.25 or not isinstance(holder[key], dict | list):
                holder[key] = copy.deepcopy(rng.choice(WRONG))
                break
            holder = holder[key]
    return json.dumps(value)


def nested_script(depth: int, *around: Any) -> str:
    """A world with an effect whose script is so deep, of operators that there are or are not."""
    value: Any = "oil"
    for _ in range(depth):
        value = [*around, value]
    effect = {"variable": "oil", "op": "set", "value": value}
    return json.dumps({**lighthouse(), "encounters": [encounter("a", {**option("x", None), "reactions": [
        {"after_effects": [effect] * 60, "next_encounter": None}
    ]})]})  # fmt: skip


def monsters() -> Iterator[Any]:
    """Texts, and what is no text, that are hostile by design."""
    mib = 2**20
    yield from (None, 3, b"{}", bytearray(b"{}"), memoryview(b"{}"), [TEXT], object())
    yield from ("", "\x00", "\ufeff" + TEXT, "\ud800" * 100, f"```json\n{TEXT}\n```", "```", f"Here: {TEXT} Enjoy!")
    for depth in (60, 64, 65, 500, 990, 5000, 200_000):
        yield "[" * depth + "]" * depth
        yield '{"encounters":' * min(depth, 50_000) + "1" + "}" * min(depth, 50_000)
        yield "[" * depth
    for number in ("9" * HUGE, "-" + "9" * HUGE, "1e" + "9" * HUGE, "0." + "9" * HUGE, "9" * 4000, "NaN", "-Infinity"):
        yield number
        yield TEXT.replace('"oil":3', f'"oil":{number}').replace('"value":2', f'"value":{number}')
        yield TEXT.replace('"change":-1', f'"change":{number}').replace('"min":0', f'"min":{number}')
    yield from ("x" * mib, "[" * mib, '"' * mib, " " * mib, "[0" + ",0" * (mib // 2 - 2) + "]", "{" * (mib + 1))
    for around in (("none",), ("none", 1), ("xor",), ("if", {}), ([], 1), ("abs",)):
        yield from (nested_script(depth, *around) for depth in (8, 22, 24, 100))
    yield json.dumps({"encounters": ["storm"] * 50_000})
    yield json.dumps({**lighthouse(), "encounters": [{"id": "a", "text": "", "options": [{}] * 50_000}]})
    yield "{" + ",".join(f'"k{i}":{i}' for i in range(40_000)) + ',"k39999":0}'
    yield json.dumps(make(*[encounter(f"e{i}", option("x", f"e{(i * 7) % 900}")) for i in range(900)]))
    yield json.dumps(make(encounter("a", *[option(f"o{i}", "a") for i in range(2000)])))
    names = {"_".join(["a"] * n): {} for n in range(1, 100)}
    yield json.dumps({**make(encounter("a")), "characters": names, "initial_state": dict.fromkeys(names, 0)})
    crowd = {f"c{i}": {} for i in range(3000)}
    yield json.dumps(
        {**make(encounter("a")), "characters": crowd, "initial_state": {f"c{i}_{'x_' * 9}": 0 for i in range(3000)}}
    )
    gates = [("logs", "!=", i) for i in range(3000)]
    yield json.dumps(make(encounter("a", option("x", "a", dict.fromkeys(["logs"], 1), gates))))


def examine(text: Any) -> None:
    for mode, config in (("strict", VerifierConfig()), ("original", VerifierConfig()), ("strict", EVERYTHING)):
        result = score(text, mode=mode, config=config)  # type: ignore[arg-type]
        again = score(text, mode=mode, config=config)  # type: ignore[arg-type]
        assert (result.components, result.total) == (again.components, again.total)
        for value in (*result.components.values(), result.total):
            assert isinstance(value, float)
            assert math.isfinite(value)
            assert 0.0 <= value <= 1.0 + 1e-9
        if result.world is not None:
            assert json.loads(json.dumps(result.world.to_json(), allow_nan=False)) == result.world.to_json()
            played = play(result.world, np.random.default_rng(0))
            assert len(played.steps) <= 20
            assert all(math.isfinite(value) for step in played.steps for value in step.state.values())


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
@pytest.mark.parametrize("make_text", [mutated, mistyped])
def test_mutated_worlds(make_text: Any, seed: int) -> None:
    rng = random.Random(seed)
    texts = [make_text(rng) for _ in range(500)]
    readable = sum(parse(text).ok for text in texts)
    assert readable > 20
    for text in texts:
        examine(text)
    for text in texts[:100]:
        issues = score(text).issues
        assert issues == score(text).issues
        json.dumps([issue.message for issue in issues])
        world = read_world(parse(text).value)[0]
        if world is not None:
            assert simulate(world, 20, 0) == simulate(world, 20, 0)
            assert len(all_paths(world, limit=50)) <= 50


def test_monsters_at_bounded_cost() -> None:
    for text in monsters():
        start = time.thread_time()
        examine(text)
        result = score(text)
        assert isinstance(result.issues, tuple)
        if result.world is not None:
            simulate(result.world, 5, 0)
        assert time.thread_time() - start < 10.0
    unique_shares([text for text in monsters() if isinstance(text, str)])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["characters", "initial_state", "properties", "encounters", "options", "reactions", "gates", "id"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=25,
)


@settings(max_examples=300, deadline=None)
@given(JSON.map(json.dumps) | st.text())
def test_any_json_and_any_text(text: str) -> None:
    examine(text)


@settings(max_examples=200, deadline=None)
@given(JSON)
def test_any_value_can_be_read_and_simulated(value: Any) -> None:
    world, _ = read_world(value)
    assert (world is None) is not isinstance(value, dict)
    if world is not None:
        assert simulate(world, 3, 0).runs == 3


def nested(kind: str, size: int) -> Any:
    """A script of that many levels, or parts."""
    if kind == "wide":
        return ["+", ["+", *[1] * (size // 2)], ["+", *[1] * (size // 2)]]
    script: Any = "oil" if kind in ("neg", "if") else {"variable": "oil", "comparison": ">=", "value": 1}
    for _ in range(size):
        script = {
            "neg": ["neg", script],
            "if": ["if", {"expr": script}, 1, 0],
            "not": {"not": script},
            "any": {"any": [script]},
        }[kind]
    return script


@pytest.mark.parametrize(
    ("kind", "size"),
    [("neg", 25), ("neg", 180), ("if", 40), ("if", 80), ("not", 25), ("not", 180), ("any", 80), ("wide", 10_000)],
)
def test_a_script_that_is_too_large_is_named_and_left_out(kind: str, size: int) -> None:
    script = nested(kind, size)
    for key in ("gates", "acceptability") if kind in ("not", "any") else ("desirability",):
        choice: dict[str, Any] = {"id": "go", "text": "go", "reactions": [{"next_encounter": None}]}
        scene: dict[str, Any] = {"id": "a", "text": "a", "options": [choice]}
        (choice if key == "gates" else scene)[key] = [script] if kind in ("not", "any") else script
        text = json.dumps({"characters": {}, "initial_state": {"oil": 0}, "properties": {}, "encounters": [scene]})
        reading = read_any(text)
        (named,) = [issue for issue in reading.issues if "nested more than 24 deep, or of more than" in issue.message]
        assert named.path.endswith((f".{key}", f".{key}[0]")) and reading.world is not None
        assert simulate(Engine(reading.world), 3, 0).runs == 3
        assert 0 < score(text, config=VerifierConfig(limits=FILE_LIMITS)).total < 1
