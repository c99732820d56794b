"""Small worlds of our own for the tests of this folder, and a short way to write others."""

from typing import Any

from lit_narrative.tasks.storyworld.formats.simple import read_world
from lit_narrative.tasks.storyworld.world import World

Json = dict[str, Any]


def option(name: str, to: str | None, effects: Json | None = None, gates: list[tuple[str, str, float]] = ()) -> Json:  # type: ignore[assignment]
    return {
        "id": name,
        "text": f"Choice {name}",
        "gates": [{"variable": v, "comparison": c, "value": n} for v, c, n in gates],
        "reactions": [
            {
                "after_effects": [{"variable": v, "change": n} for v, n in (effects or {}).items()],
                "next_encounter": to,
            }
        ],
    }


def encounter(name: str, *options: Json) -> Json:
    return {"id": name, "text": f"This is the {name}.", "options": list(options)}


def make(*encounters: Json, state: Json | None = None, properties: Json | None = None) -> Json:
    state = {"Ada_calm": 0, "logs": 3} if state is None else state
    return {
        "characters": {"Ada": {"initial_calm": 0}},
        "initial_state": state,
        "properties": {"calm": {"min": -1, "max": 1}, "logs": {"min": 0, "max": 5}}
        if properties is None
        else properties,
        "encounters": list(encounters),
    }


def read(value: Json) -> World:
    world, malformed = read_world(value)
    assert world is not None
    assert not malformed
    return world


def lighthouse() -> Json:
    """Five encounters, four gates, two endings; full marks in both modes."""
    return {
        "characters": {"Mara": {"initial_trust": 0.1}, "Teo": {"initial_trust": -0.3}},
        "initial_state": {"Mara_trust": 0.1, "Teo_trust": -0.3, "oil": 3},
        "properties": {"trust": {"min": -1.0, "max": 1.0}, "oil": {"min": 0, "max": 5}},
        "encounters": [
            encounter(
                "storm",
                option("tend", "boat", {"oil": -1, "Mara_trust": 0.2}),
                option("sleep", "boat", {"Teo_trust": -0.2}),
            ),
            encounter(
                "boat",
                option("signal", "cellar", {"oil": -1, "Teo_trust": 0.4}, [("oil", ">=", 2)]),
                option("wait", "cellar", {"Mara_trust": -0.1}),
            ),
            encounter(
                "cellar",
                option("dig", "dawn", {"Mara_trust": 0.1}, [("Teo_trust", ">=", 0.0)]),
                option("leave", "wreck"),
            ),
            encounter(
                "dawn",
                option("confess", None, {"Mara_trust": 0.3}, [("Mara_trust", ">", 0.1)]),
                option("stay", None),
            ),
            encounter(
                "wreck",
                option("mourn", None, {"oil": 0}, [("oil", "<=", 1)]),
                option("flee", None, {"Teo_trust": -0.5}),
            ),
        ],
    }


def beacon() -> Json:
    """A world with every optional key and every kind of script of the format, and keys that it does not name."""
    shown = {"any": [{"variable": "oil", "comparison": ">=", "value": 2, "why": "light"}, {"happened": "storm"}]}
    early = {"not": {"all": [{"happened": "storm", "option": 0, "reaction": 1}, {"expr": [">", "oil", ["neg", 1]]}]}}
    mood = ["if", {"expr": ["xor", shown, early]}, ["blend", "Mara.calm", 0.5, "Mara.calm[Teo]"], ["mean", "oil", 1]]
    effects = [
        {"variable": "oil", "change": -1, "note": "a third"},
        {"variable": "Mara.calm", "op": "nudge", "value": 0.3},
        {"variable": "Teo_calm", "op": "set", "value": mood},
        {"spool": "late", "active": True},
        {"spool": "first", "active": {"any": []}},
    ]
    burns = {"text": "It burns.", "desirability": ["near", "oil", 2], "after_effects": effects}
    tend = {
        "id": "tend",
        "text": "Tend the lamp.",
        "gates": [early],
        "performable": [{"variable": "oil", "comparison": ">", "value": 0}],
        "reactions": [
            {**burns, "next_encounter": "wild"},
            {"after_effects": [], "next_encounter": "dawn", "tint": [1, 2]},
        ],
        "icon": "lamp",
    }
    storm = {
        "id": "storm",
        "text": "The lamp gutters.",
        "title": "Storm",
        "spools": ["first"],
        "acceptability": [shown],
        "desirability": mood,
        "turns": [0, 3],
        "options": [tend],
        "place": {"x": 1},
    }
    return {
        "title": "Beacon",
        "start": "storm",
        "characters": {"Mara": {"initial_calm": 0.1}, "Teo": {}},
        "initial_state": {"Mara.calm": 0.1, "Mara.calm[Teo]": 0.2, "Teo_calm": 0, "oil": 3},
        "properties": {"calm": {"min": -1, "max": 1, "default": 0}, "oil": {"min": 0, "max": 5}},
        "spools": {"first": True, "late": False},
        "encounters": [storm, {"id": "dawn", "text": "Dawn.", "spools": ["late"], "options": []}],
        "author": "a keeper",
    }
