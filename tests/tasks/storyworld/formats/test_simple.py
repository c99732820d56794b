"""The reader: what it keeps, what it drops, and that it agrees with the JSON Schema."""

import copy
import json
import math
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_narrative.tasks.storyworld.expressions import DEEPEST
from lit_narrative.tasks.storyworld.formats.simple import read_counting, read_world
from lit_narrative.tasks.storyworld.issues import validator
from lit_narrative.tasks.storyworld.verifiers.score import score
from lit_narrative.tasks.storyworld.world import Variable, is_plain, owners, variable_bounds
from tests.paths import ROOT
from tests.tasks.storyworld.lighthouse import beacon, encounter, lighthouse, make, option, read

JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(
        ["", "x", "oil", "storm", ">=", "id", "options", "\ud800", "neg", "+", "if", "xor", "add", "set"]
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["id", "text", "options", "min", "variable", "x"]), inner, max_size=3)
        | st.dictionaries(st.sampled_from(["any", "all", "not", "expr", "happened", "option"]), inner, max_size=2)
    ),
    max_leaves=5,
)


MORE = ["gates", "text", "next_encounter", "max", "extra", "performable", "acceptability", "desirability", "turns"]
MORE += ["title", "start", "spools", "spool", "active", "op", "value", "any", "expr", "happened"]


def positions(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    result = [path]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        result += positions(inner, (*path, key))
    return result


@st.composite
def mangled(draw: st.DrawFn) -> Any:
    """The lighthouse, plain or with all that the format knows, with one to three parts replaced, removed or added."""
    value: Any = copy.deepcopy(draw(st.sampled_from([lighthouse(), beacon()])))
    for _ in range(draw(st.integers(1, 3))):
        *path, last = draw(st.sampled_from(positions(value)[1:]))
        holder = value
        for key in path:
            holder = holder[key]
        match draw(st.sampled_from(["replace", "remove", "add"])):
            case "replace":
                holder[last] = draw(JUNK)
            case "remove":
                del holder[last]
            case "add" if isinstance(holder, dict):
                holder[draw(st.sampled_from(MORE))] = draw(JUNK)
            case _:
                holder.append(draw(JUNK))
        if not isinstance(value, dict) or len(positions(value)) < 2:
            return value
    return value


@settings(max_examples=400, deadline=None)
@given(mangled() | JUNK)
def test_malformed_is_what_the_schema_refuses(value: Any) -> None:
    assert read_world(value)[1] is not validator().is_valid(value)


def test_the_lighthouse_is_read_whole_and_written_back() -> None:
    world = read(lighthouse())
    assert world.variables["Mara_trust"] == Variable(0.1, -1.0, 1.0)
    assert world.variables["oil"] == Variable(3.0, 0.0, 5.0)
    assert [e.id for e in world.encounters] == ["storm", "boat", "cellar", "dawn", "wreck"]
    assert world.to_json() == lighthouse()
    assert json.dumps(world.to_json()["initial_state"]) == '{"Mara_trust": 0.1, "Teo_trust": -0.3, "oil": 3}'


def test_bounds_that_no_property_explains_are_written_for_the_variable() -> None:
    world = read(make(encounter("hut"), state={"logs": 1}, properties={}))
    bounded = type(world)(world.characters, {"logs": Variable(1.0, 0.0, 2.0)}, world.encounters, world.properties)
    assert bounded.to_json()["properties"] == {"logs": {"min": 0, "max": 2}}
    assert read_world(bounded.to_json())[0].variables["logs"] == Variable(1.0, 0.0, 2.0)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "bounds"),
    [
        ("Mara_trust", (-1, 1)),
        ("Mara_Lou_trust", (-2, 2)),  # Mara_Lou's trust
        ("Mara_Lou_love", (-3, 3)),  # Mara's Lou_love: there is no love
        ("Teo_trust", (-math.inf, math.inf)),  # Teo is no character
        ("oil", (0, 5)),
        ("Mara_oil", (7, 8)),  # its own name comes first
        ("Mara_gone", (-math.inf, math.inf)),
        ("Mara_upside", (-math.inf, math.inf)),  # min above max
    ],
)
def test_bounds_follow_the_longest_character_and_a_declared_property(name: str, bounds: tuple[float, float]) -> None:
    properties = {"trust": (-1.0, 1.0), "Lou_love": (-3.0, 3.0), "oil": (0.0, 5.0), "Mara_oil": (7.0, 8.0)}
    properties["upside"] = (1.0, -1.0)
    characters = {"Mara", "Mara_Lou"}
    if name == "Mara_Lou_trust":
        properties["Mara_Lou_trust"] = (-2.0, 2.0)
    assert variable_bounds(name, characters, properties) == bounds


def test_the_longest_character_owns_a_variable() -> None:
    assert list(owners("Mara_Lou_trust")) == [("Mara_Lou", "trust"), ("Mara", "Lou_trust")]
    assert list(owners("_x")) == []
    assert list(owners("a_" * 200)) == []


def test_what_is_malformed_is_dropped_and_counted() -> None:
    value = make(
        encounter("hut", option("burn", "night", {"logs": -1}, [("logs", ">", 0)]), {"id": "", "text": "?"}),
        encounter("night"),
        "not an encounter",  # type: ignore[arg-type]
    )
    burn = value["encounters"][0]["options"][0]
    burn["gates"].append({"variable": "logs", "comparison": "~", "value": 1})
    burn["reactions"][0]["after_effects"].append({"variable": ["logs"], "change": 1})
    burn["reactions"].append({"next_encounter": 5})
    value["initial_state"]["cold"] = True
    value["characters"]["Ada"]["mood"] = "calm"
    value["properties"]["logs"] = {"min": "low"}
    world, bad = read_counting(value)
    assert world is not None
    assert bad == dict.fromkeys(
        ("encounters", "options", "gates", "effects", "reactions", "initial_state", "characters", "properties"), 1
    )
    assert [e.id for e in world.encounters] == ["hut", "night"]
    (kept,) = world.encounters[0].options
    assert len(kept.gates) == 1
    assert len(kept.reactions[0].effects) == 1
    assert [r.leads for r in kept.reactions] == [True, False]
    assert list(world.variables) == ["Ada_calm", "logs"]
    assert world.characters == {"Ada": {"initial_calm": 0}}


def test_an_encounter_whose_options_cannot_be_read_is_no_ending() -> None:
    value = make(encounter("hut", option("go", "night")), {"id": "night", "text": "", "options": ["junk"]})
    assert [e.id for e in read_world(value)[0].encounters] == ["hut"]  # type: ignore[union-attr]
    value["encounters"][1]["options"] = {}
    assert [e.id for e in read_world(value)[0].encounters] == ["hut"]  # type: ignore[union-attr]


@pytest.mark.parametrize("number", [True, 1e10, -1e10, "3", None, [], 10**400])
def test_what_is_no_bounded_number_is_no_variable(number: Any) -> None:
    world, malformed = read_world(make(encounter("hut"), state={"x": number}))
    assert malformed
    assert world is not None
    assert not world.variables


def test_all_that_the_format_knows_is_read_and_written_back() -> None:
    world = read(beacon())
    assert world.to_json() == beacon()
    assert world.variables["Mara.calm[Teo]"] == Variable(0.2, -1.0, 1.0)
    assert not is_plain(world)
    assert world.encounters[0].turns == (0, 3)
    assert world.extra == {"author": "a keeper"}


@settings(max_examples=100, deadline=None)
@given(mangled())
def test_what_was_read_is_written_and_read_again_the_same(value: Any) -> None:
    world, _ = read_world(value)
    if world is not None:
        again, malformed = read_counting(world.to_json())
        assert again == world
        assert malformed.keys() <= {"keys"}  # an empty list of encounters is malformed


@pytest.mark.parametrize(
    ("path", "part"),
    [
        (("start",), "dawn"),
        (("encounters", 0, "options", 0, "gates"), [{"any": []}]),
        (("encounters", 0, "options", 0, "performable"), [{"variable": "oil", "comparison": ">", "value": 1}]),
        (("encounters", 0, "options", 0, "reactions", 0, "desirability"), 1),
        (("encounters", 0, "options", 0, "reactions", 0, "next_encounter"), "wild"),
        (("encounters", 0, "options", 0, "reactions", 0, "after_effects", 0), {"spool": "a", "active": True}),
        (
            ("encounters", 0, "options", 0, "reactions", 0, "after_effects", 0),
            {"variable": "oil", "op": "add", "value": "oil"},
        ),
    ],
)
def test_what_makes_a_world_need_an_engine(path: tuple[Any, ...], part: Any) -> None:
    value = lighthouse()
    assert is_plain(read(value))
    *above, last = path
    holder: Any = value
    for key in above:
        holder = holder[key]
    holder[last] = part
    assert not is_plain(read(value))


def test_an_encounter_called_wild_is_one_like_others() -> None:
    assert is_plain(read(make(encounter("hut", option("go", "wild")), encounter("wild"))))


def test_a_script_that_is_nested_too_deep_is_malformed() -> None:
    value = lighthouse()
    gate: dict[str, Any] = {"variable": "oil", "comparison": ">", "value": 1}
    for depth in range(1, 30):
        gate = {"not": gate}
        value["encounters"][0]["options"][0]["gates"] = [gate]
        assert read_world(value)[1] is (depth > DEEPEST)


def test_the_annotated_world_of_the_docs_is_sound_and_has_every_key_of_a_plain_world() -> None:
    (annotated,) = re.findall(r"```jsonc\n(.*?)```", (ROOT / "docs" / "worlds.md").read_text(encoding="utf-8"), re.S)
    text = re.sub(" +//.*", "", annotated)
    result = score(text)
    assert result.parts["sound"]
    assert [issue.message for issue in result.issues if issue.severity == "error"] == []
    assert f"{result.total:.3f}" == "0.990"  # as the docs say
    assert {path[-1] for path in positions(json.loads(text)) if path} >= {
        *("title", "start", "characters", "initial_state", "properties", "encounters", "min", "max", "id", "text"),
        *("options", "gates", "comparison", "value", "reactions", "after_effects", "change", "next_encounter"),
    }
