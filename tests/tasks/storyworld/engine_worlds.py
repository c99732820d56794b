"""Random worlds of what only an engine plays: scripts of every operator, spools, turns, selection, events."""

import random
from typing import Any

from lit_narrative.tasks.storyworld.expressions import COMPARISONS, OPERATORS
from lit_narrative.tasks.storyworld.world import World
from tests.tasks.storyworld.lighthouse import Json, read

NAMES = ("Ada_calm", "Bo_calm", "logs", "ghost")
SPOOLS = ("day", "night", "dream")


def expr(rng: random.Random, depth: int = 2) -> Any:
    if depth == 0 or rng.random() < 0.3:
        return rng.choice([*NAMES, round(rng.uniform(-2, 2), 2), rng.randint(-3, 3)])
    op = rng.choice(sorted(OPERATORS))
    least, most = OPERATORS[op]
    parts = [expr(rng, depth - 1) for _ in range(rng.randint(least, most or 4))]
    if op in ("xor", "same"):
        parts = [condition(rng, depth - 1) for _ in parts]
    if op == "if":
        parts[0] = condition(rng, depth - 1)
    return [op, *parts]


def condition(rng: random.Random, depth: int = 2) -> Json:
    kind = rng.random()
    if depth == 0 or kind < 0.4:
        comparison = rng.choice(sorted(COMPARISONS))
        return {"variable": rng.choice(NAMES), "comparison": comparison, "value": rng.randint(-4, 4) / 4}
    if kind < 0.5:
        return {"happened": f"e{rng.randrange(8)}", "option": rng.randrange(2)} if kind < 0.45 else {"happened": "e1"}
    if kind < 0.8:
        return {rng.choice(["any", "all"]): [condition(rng, depth - 1) for _ in range(rng.randint(0, 3))]}
    return {"not": condition(rng, depth - 1)} if kind < 0.9 else {"expr": expr(rng, depth - 1)}


def effect(rng: random.Random) -> Json:
    kind = rng.random()
    if kind < 0.2:
        return {"spool": rng.choice(SPOOLS), "active": rng.choice([True, False, condition(rng)])}
    name = rng.choice(NAMES)
    if kind < 0.4:
        return {"variable": name, "change": rng.randint(-4, 4) / 4}
    return {"variable": name, "op": rng.choice(["add", "nudge", "set"]), "value": expr(rng)}


def reaction(rng: random.Random) -> Json:
    value = {"after_effects": [effect(rng) for _ in range(rng.randint(0, 3))], "desirability": expr(rng)}
    if rng.random() < 0.15:
        return value
    return {**value, "next_encounter": rng.choice(["wild", "wild", None, *[f"e{i}" for i in range(9)]])}


def scripted_world(seed: int) -> Json:
    """A world of eight encounters, one of them without options; some of its names are not declared."""
    rng = random.Random(seed)
    encounters = []
    for i in range(8):
        options = [
            {
                "id": f"o{j}",
                "text": f"Do {j}.",
                "gates": [condition(rng) for _ in range(rng.randint(0, 1))],
                "performable": [condition(rng) for _ in range(rng.random() < 0.2)],
                "reactions": [reaction(rng) for _ in range(rng.randint(0 if rng.random() < 0.2 else 1, 3))],
            }
            for j in range(rng.randint(1, 3))
        ]
        first = rng.choice([0, 0, 0, 2, 4])
        more = {
            "spools": rng.sample(SPOOLS, rng.choice([0, 1, 2])),
            "acceptability": [condition(rng) for _ in range(rng.random() < 0.5)],
            "desirability": expr(rng),
            "turns": [first, rng.choice([0, 0, first + 3, 3])],
        }
        encounters.append({"id": f"e{i}", "text": f"Scene {i}.", "options": options if i < 7 else [], **more})
    return {
        "start": rng.choice(["e0", "e1"]),
        "characters": {"Ada": {}, "Bo": {}},
        "initial_state": {"Ada_calm": 0.25, "Bo_calm": -0.5, "logs": 2},
        "properties": {"calm": {"min": -1, "max": 1}},
        "spools": {"day": True, "night": False},
        "encounters": encounters,
    }


def scripted_worlds(n: int) -> list[World]:
    return [read(scripted_world(seed)) for seed in range(n)]
