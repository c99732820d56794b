"""The reader of SweepWeave files: our own small file, files that are odd in every way we know, and the real ones."""

import copy
import hashlib
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from lit_narrative.tasks.storyworld.expressions import Gate
from lit_narrative.tasks.storyworld.formats.files import read_any
from lit_narrative.tasks.storyworld.formats.simple import read_counting
from lit_narrative.tasks.storyworld.formats.sweepweave.read import read_sweepweave
from lit_narrative.tasks.storyworld.issues import Issue
from lit_narrative.tasks.storyworld.world import WILD, Effect, SpoolEffect, Variable, World
from tests.paths import LIGHT, WORLDS

Json = dict[str, Any]
REAL = sorted(WORLDS.glob("*.json"))
EACH = REAL or [pytest.param(None, marks=pytest.mark.skip(f"no SweepWeave files in {WORLDS}; set LIT_WORLDS"))]


def light() -> Json:
    value: Json = json.loads(LIGHT.read_text(encoding="utf-8"))
    return value


def read(change: Callable[[Json], object] = lambda value: None) -> tuple[World, tuple[Issue, ...]]:
    value = light()
    change(value)
    return read_sweepweave(value)


def reactions(value: Json) -> list[Json]:
    return [one for option in value["encounters"][0]["options"] for one in option["reactions"]]


def first_option(value: Json) -> Json:
    option: Json = value["encounters"][0]["options"][0]
    return option


def first_reaction(value: Json) -> Json:
    reaction: Json = first_option(value)["reactions"][0]
    return reaction


def test_our_own_file_is_read_whole() -> None:
    world, issues = read()
    assert issues == ()
    assert world.title == "Light"
    assert world.start == "page_0000"
    assert world.variables == {f"char_{name}.Calm": Variable(0.0, -1.0, 1.0) for name in ("mara", "teo")}
    assert world.spools == {"spool_main": True}
    storm, dawn, _ = world.encounters
    assert storm.turns == (0, 999)
    assert storm.spools == ("spool_main",)
    assert storm.desirability == 0.5
    assert storm.options[1].gates == (Gate("char_mara.Calm", ">=", -0.5),)
    burns, dies = storm.options[0].reactions
    assert burns.effects == (Effect("char_mara.Calm", 0.0, "nudge", 0.3),)
    assert (burns.next_encounter, dies.next_encounter) == ("page_end_a", WILD)
    assert dawn.acceptability == (Gate("char_mara.Calm", ">=", 0.1),)
    assert storm.extra is not None
    assert storm.extra["meta"]["word_count"] == 3


ODD: list[tuple[str, Callable[[Json], object], str, str]] = [
    ("top title", lambda v: v.update(title="L", storyworld_title=3), "$.storyworld_title", "write a text"),
    ("title", lambda v: v["encounters"][0].update(title=["Storm"]), "$.encounters[0].title", "write a text"),
    ("no options", lambda v: v["encounters"][1].update(options=None), "$.encounters[1]", ""),
    ("second property", lambda v: v["authored_properties"].append(v["authored_properties"][0]), "].id", "leave one"),
    ("depth", lambda v: v["authored_properties"][0].update(depth="2"), "$.authored_properties[0].depth", "write 0"),
    ("depth 0.0", lambda v: v["authored_properties"][0].update(depth=0.0), "", ""),
    ("plain about", lambda v: v.update(about_text="A keeper."), "", ""),
    ("ISO time", lambda v: v.update(creation_time="2026-01-02T03:04:05"), "", ""),
    ("unknown key", lambda v: v.update(mood="dark"), "", ""),
    ("no spools", lambda v: v.pop("spools"), "$.spools", 'add `"spools": []`'),
    ("spool keys", lambda v: v["spools"][0].pop("starts_active"), "$.spools[0].starts_active", "add"),
    ("spool list", lambda v: v["spools"][0].pop("encounters"), "", ""),
    ("membership", lambda v: v["encounters"][1].update(connected_spools=[]), "connected_spools", "spool_main"),
    ("unknown spool", lambda v: v["encounters"][1]["connected_spools"].append("x"), "connected_spools[1]", ""),
    ("unknown member", lambda v: v["spools"][0]["encounters"].append("x"), "$.spools[0].encounters[3]", ""),
    ("chars", lambda v: v.update(chars=v.pop("characters")), "$.chars", "rename"),
    ("no cast", lambda v: v.update(characters=[]), "$.characters", ""),
    ("second character", lambda v: v["characters"].append(v["characters"][0]), "$.characters[2].id", ""),
    ("number", lambda v: v["characters"][0]["bnumber_properties"].update(Calm="high"), "bnumber_properties.Calm", "0"),
    ("start value", lambda v: v["characters"][0]["bnumber_properties"].update(Calm=7), "$.characters", "write 1"),
    ("property", lambda v: v["authored_properties"][0].update(default_value=[]), "default_value", "write 0"),
    ("dangling", lambda v: first_reaction(v).update(consequence_id="page_end_x"), "consequence_id", "page_end_"),
    ("null", lambda v: first_reaction(v).update(consequence_id=None), "consequence_id", '"wild"'),
    ("empty", lambda v: first_reaction(v).update(consequence_id=""), "consequence_id", '"wild"'),
    ("no reactions", lambda v: first_option(v).pop("reactions"), "options[0]", ""),
    ("effects", lambda v: first_option(v).update(effects=first_option(v).pop("reactions")), "options[0]", ""),
    ("no text", lambda v: first_option(v).pop("text_script"), "text_script", "String Constant"),
    ("text", lambda v: first_option(v).update(text_script="Tend"), "", ""),
    ("turn", lambda v: v["encounters"][0].update(earliest_turn="2026-01-02"), "earliest_turn", "write 0"),
    ("no performability", lambda v: first_option(v).pop("performability_script"), "", ""),
    ("effect", lambda v: first_reaction(v)["after_effects"].append({"to": 1}), "after_effects[1]", ""),
    ("second option", lambda v: first_option(v).update(id="o1"), "$.encounters[0].options", "another id"),
    ("trap", lambda v: [r.update(consequence_id="page_0000") for r in reactions(v)], "$.encounters[0]", ""),
    ("junk", lambda v: v["encounters"].append("junk"), "$.encounters[3]", ""),
    ("no id", lambda v: first_option(v).pop("id"), "options[0]", ""),
]


@pytest.mark.parametrize(("change", "path", "repair"), [case[1:] for case in ODD], ids=[case[0] for case in ODD])
def test_what_is_odd_is_an_issue_with_its_place_and_the_rest_is_read(
    change: Callable[[Json], object], path: str, repair: str
) -> None:
    world, issues = read(change)
    assert bool(issues) is bool(path)
    if path:
        assert any(path in issue.path and repair in issue.repair for issue in issues)
    assert len(world.encounters) == 3
    again, malformed = read_counting(json.loads(json.dumps(world.to_json())))
    assert again == world
    assert not malformed


def test_what_stands_in_an_old_place_is_found() -> None:
    def reactions_in_the_encounter(value: Json) -> None:
        for option in value["encounters"][0]["options"]:
            value["encounters"][0]["reactions"] = option.pop("reactions")

    world, issues = read(reactions_in_the_encounter)
    assert [len(option.reactions) for option in world.encounters[0].options] == [1, 1]
    assert any("stand in the encounter" in issue.message for issue in issues)

    def prompts(value: Json) -> None:
        value["encounters"][0]["prompt_script"]["value"] = "As prompted."
        del value["encounters"][0]["text_script"]

    assert read(prompts)[0].encounters[0].text == "As prompted."


def test_spools_and_perceived_values() -> None:
    pointer = {"pointer_type": "Bounded Number Pointer", "character": "char_teo", "keyring": ["pCalm", "char_mara"]}

    def change(value: Json) -> None:
        value["characters"][0]["bnumber_properties"]["pCalm"] = {"char_teo": 0.25, "char_mara": {"char_teo": 0.5}}
        first_reaction(value)["after_effects"] = [
            {"effect_type": "Spool Effect", "Set": "spool_main", "to": False},
            {"effect_type": "Bounded Number Effect", "Set": pointer, "to": 0.5},
        ]

    world, issues = read(change)
    assert issues == ()
    assert world.variables["char_mara.pCalm[char_teo]"].initial == 0.25
    assert world.variables["char_mara.pCalm[char_mara][char_teo]"].initial == 0.5
    assert world.encounters[0].options[0].reactions[0].effects == (
        SpoolEffect("spool_main", False),
        Effect("char_teo.pCalm[char_mara]", 0.0, "set", 0.5),
    )


def test_a_perceived_value_of_a_property_that_is_the_characters_own_is_named() -> None:
    pointer = {"pointer_type": "Bounded Number Pointer", "character": "char_mara", "keyring": ["Calm", "char_teo"]}

    def change(value: Json) -> None:
        value["characters"][0]["bnumber_properties"]["Calm"] = 0.25
        first_reaction(value)["after_effects"] = [{"effect_type": "Bounded Number Effect", "Set": pointer, "to": 0.5}]

    world, (issue,) = read(change)
    assert issue.path == "$.encounters[0].options[0].reactions[0].after_effects[0].Set"
    assert "'Calm' has depth 0" in issue.message and "starts at 0.25" in issue.message
    assert (issue.severity, issue.repair) == ("warning", "use a property of depth 1")
    assert world.variables["char_mara.Calm[char_teo]"].initial == 0.25


def test_a_generated_file_in_hundredths_has_bounds_of_a_hundred() -> None:
    def change(value: Json) -> None:
        pointer = {"pointer_type": "Bounded Number Property", "character": "char_mara", "keyring": ["Calm"]}
        ten = {"pointer_type": "Bounded Number Constant", "coefficient": 10}
        by = {"script_element_type": "Bounded Number Operator", "operator_type": "Addition", "operands": [pointer, ten]}
        first_reaction(value)["after_effects"] = [{"effect_type": "Set", "Set": pointer, "to": by}]

    world, _ = read(change)
    assert world.variables["char_mara.Calm"] == Variable(0.0, -100.0, 100.0)
    assert world.encounters[0].options[0].reactions[0].effects == (Effect("char_mara.Calm", 10.0),)


def test_start_without_a_first_page_is_the_first_of_the_first_active_spool() -> None:
    def change(value: Json) -> None:
        value["encounters"][0]["id"] = "storm"
        value["spools"][0]["encounters"] = ["storm", "page_end_a"]
        later = {"id": "early", "starts_active": True, "encounters": ["page_end_b"], "creation_index": -1}
        value["spools"].append(later)

    assert read(change)[0].start == "page_end_b"
    assert read(lambda value: (change(value), value["spools"].clear()))[0].start == "storm"


def junk(value: Any, depth: int = 0) -> list[Any]:
    """The value with every part replaced, one at a time, by each of several junk values."""
    found: list[Any] = []

    def walk(holder: Any) -> None:
        for key in list(holder) if isinstance(holder, dict) else range(len(holder)):
            for other in (None, [], {}, "x", 1e308, -1, True):
                kept, holder[key] = holder[key], other
                found.append(copy.deepcopy(value))
                holder[key] = kept
            if isinstance(holder[key], dict | list):
                walk(holder[key])

    walk(value)
    return found


def test_no_part_replaced_by_junk_stops_the_reader() -> None:
    value = light()
    value["encounters"][0]["options"] = value["encounters"][0]["options"][:1]
    variants = junk(value)
    assert len(variants) > 500
    for variant in variants[:: max(1, len(variants) // 400)]:
        world, _ = read_sweepweave(variant)
        assert read_counting(world.to_json())[0] == world


@pytest.mark.parametrize("path", EACH, ids=lambda path: getattr(path, "stem", "absent"))
def test_a_real_file_is_read_in_time_and_loses_nothing(path: Any) -> None:
    start = time.thread_time()
    reading = read_any(path.read_text(encoding="utf-8"))
    assert time.thread_time() - start < 1
    assert reading.world is not None
    assert reading.world.encounters
    assert (reading.dialect == "stub") is (path.stem == "macbeth_storyworld_v2")
    value = json.loads(json.dumps(reading.world.to_json()))
    again, malformed = read_counting(value)
    assert again == reading.world
    assert not malformed


SIZES = {
    "charter_of_ashen_aegis": ("1585130c", 18, 4, 24, 29, 43),
    "diplo1": ("e13c541e", 4, 2, 4, 4, 8),
    "forecast_backstab_p": ("080530d9", 10, 7, 21, 42, 138),
    "gaza_doctor": ("373da82a", 59, 3, 146, 180, 240),
    "macbeth_storyworld_v2": ("55a4f086", 2, 2, 3, 0, 0),
    "mihna_constitutional_alignment": ("a0baf538", 41, 5, 110, 238, 828),
    "robert_of_st_albans": ("d01ad6c3", 43, 6, 69, 146, 419),
    "russia_to_austria_grudger": ("15be1a5d", 5, 3, 8, 8, 9),
    "storyworld_template_v1_canonical_full_normalized": ("e550b2dd", 24, 3, 72, 138, 192),
    "the_fifth_testimony_p2": ("726c2c21", 11, 4, 13, 39, 195),
}
"""Of files with a digest that begins so: encounters, characters, options, reactions, effects."""


@pytest.mark.parametrize("path", EACH, ids=lambda path: getattr(path, "stem", "absent"))
def test_a_real_file_has_the_parts_that_were_counted_in_it(path: Any) -> None:
    digest, *sizes = SIZES.get(path.stem, ("",))
    if not digest or not hashlib.sha256(path.read_bytes()).hexdigest().startswith(digest):
        pytest.skip("another file or version than was counted")
    world = read_any(path.read_text(encoding="utf-8")).world
    assert world is not None
    options = [option for encounter in world.encounters for option in encounter.options]
    reactions = [reaction for option in options for reaction in option.reactions]
    effects = [effect for reaction in reactions for effect in reaction.effects]
    assert [len(part) for part in (world.encounters, world.characters, options, reactions, effects)] == sizes
