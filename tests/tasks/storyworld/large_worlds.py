"""Worlds as large as the limit on texts allows, each with very many parts of one kind."""

import json
from collections.abc import Callable
from typing import Any


def large_world(kind: str, size: int = 2**20) -> str:
    """A text of nearly ``size`` characters with as many parts of a kind as fit."""
    make, n = KINDS[kind], 200
    text = make(n)
    # Parts are not equally long, so that the number that fits is found in steps.
    while not 0.9 * size <= len(text) <= size:
        n = max(int(n * 0.96 * size / len(text)), 1)
        text = make(n)
    return text


def _world(encounters: list[Any], state: Any = None, characters: Any = None, properties: Any = None) -> str:
    return json.dumps(
        {
            "characters": characters or {},
            "initial_state": state or {},
            "properties": properties or {},
            "encounters": encounters,
        },
        separators=(",", ":"),
    )


def _scene(name: str, *options: Any) -> dict[str, Any]:
    return {"id": name, "text": "", "options": list(options)}


def _option(follows: str | None, effects: Any = (), gates: Any = ()) -> dict[str, Any]:
    return {
        "id": "x",
        "text": "",
        "gates": [{"variable": v, "comparison": c, "value": n} for v, c, n in gates],
        "reactions": [{"after_effects": [{"variable": v, "change": n} for v, n in effects], "next_encounter": follows}],
    }


def _variables(n: int) -> dict[str, int]:
    return {f"v{i}": 0 for i in range(n)}


def _gated(n: int) -> list[Any]:
    return [_option("a", [("v0", 1)], [("v0", "!=", 77)]) for _ in range(n)]


_TWICE = '{"":0,"":1}'
KINDS: dict[str, Callable[[int], str]] = {
    "encounters with one id": lambda n: _world([_scene("hall")] * n),
    "encounters with one id and a number": lambda n: _world([*[_scene("hall")] * n, 3]),
    "encounters": lambda n: _world([_scene(f"e{i}") for i in range(n)]),
    "encounters in a row": lambda n: _world([_scene(f"e{i}", _option(f"e{i + 1}")) for i in range(n)]),
    "numbers for encounters": lambda n: _world([1] * n),
    "options": lambda n: _world([_scene("a", *[_option("a")] * n)]),
    "options with an id alone": lambda n: _world([_scene("a", *[{"id": "x"}] * n)]),
    "empty options": lambda n: _world([_scene("a", *[{}] * n)]),
    "reactions": lambda n: _world([_scene("a", {"id": "x", "text": "", "reactions": [{}] * n})]),
    "reactions and a broken encounter": lambda n: _world(
        [_scene("a", {"id": "x", "text": "", "reactions": [{}] * n}), 3]
    ),
    "gates": lambda n: _world([_scene("a", _option("a", [("v0", 1)], [("v0", ">=", 0)] * n))], {"v0": 0}),
    "broken gates": lambda n: _world([_scene("a", {**_option("a"), "gates": [0] * n})]),
    "effects": lambda n: _world([_scene("a", _option("a", [("v0", 1)] * n, [("v0", "!=", 5)]))], {"v0": 0}),
    "options with gates": lambda n: _world([_scene("a", *_gated(n))], {"v0": 0}),
    "variables": lambda n: _world([_scene("a", *_gated(9))], _variables(n)),
    "variables and options": lambda n: _world([_scene("a", *_gated(n // 16))], _variables(n)),
    "variables and effects": lambda n: _world(
        [_scene("a", _option("a", [(f"v{i}", 1) for i in range(n)]))], _variables(n)
    ),
    "broken variables": lambda n: _world([_scene("a")], {f"v{i}": "x" for i in range(n)}),
    "properties": lambda n: _world([_scene("a")], {"a": 0}, None, {f"p{i}": {"min": 2, "max": 1} for i in range(n)}),
    "characters": lambda n: _world([_scene("a")], {"x_y": 1}, {f"c{i}": {} for i in range(n)}),
    "broken characters": lambda n: _world([_scene("a")], None, {f"c{i}": 3 for i in range(n)}),
    "owners": lambda n: _world([_scene("a")], {f"{i:_<240}": 0 for i in range(n)}, {"_": {}}, {"": {}}),
    "names": lambda n: _world([_scene("_" * n)], None, {"_" * i + "b": {} for i in range(60)}),
    "a long name": lambda n: _world([_scene("_" * n)], None, {"_" * (n // 3) + "b": {}}),
    "text": lambda n: _world([_scene("a" * n)]),
    "escapes": lambda n: _world([_scene("\ud83d" * n)]),
    "backslashes": lambda n: "\\" * n,
    "brackets": lambda n: "[" * n,
    "nesting": lambda n: "[" + ",".join(["[" * 60 + "]" * 60] * n) + "]",
    "empty objects": lambda n: "[" + ",".join(["{}"] * n) + "]",
    "a key many times": lambda n: "{" + ",".join(['"":0'] * n) + "}",
    "objects with a key twice": lambda n: _world([]).replace("[]", "[" + ",".join([_TWICE] * n) + "]"),
    "digits": lambda n: _world([_scene("a")], {"v": 0}).replace("0", "9" * n),
    "long integers": lambda n: "[" + ",".join(["9" * 4000] * n) + "]",
    "exponents": lambda n: "[" + ",".join(["1e-320"] * n) + "]",
    "spaces": lambda n: " " * n + "{}",
}
"""A text with n parts of the kind."""
