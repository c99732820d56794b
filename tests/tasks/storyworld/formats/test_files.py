"""The reader of every format, and bad input of every kind: an answer in bounded time, and never an exception."""

import json
import time
from typing import Any

import pytest

from lit_narrative.tasks.storyworld.formats.files import FILE_LIMITS, read_any
from lit_narrative.tasks.storyworld.formats.sweepweave.rules import loader_issues
from lit_narrative.tasks.storyworld.formats.sweepweave.write import write_sweepweave
from tests.paths import LIGHT
from tests.tasks.storyworld.lighthouse import beacon, encounter, lighthouse, make, option

TEXT = LIGHT.read_text(encoding="utf-8")


def light() -> Any:
    return json.loads(TEXT)


def constant(value: Any) -> dict[str, Any]:
    return {"pointer_type": "Bounded Number Constant", "script_element_type": "Pointer", "value": value}


def large(encounters: int = 700) -> dict[str, Any]:
    """A file of 2.5 MB."""
    value = light()
    first = value["encounters"][0]
    text = "The lamp gutters. " * 40
    first["text_script"]["value"] = first["prompt_script"]["value"] = text
    first["options"][0]["reactions"][0]["consequence_id"] = "page_0001"
    value["encounters"] = [{**first, "id": f"page_{i:04}"} for i in range(encounters)]
    value["spools"][0]["encounters"] = [page["id"] for page in value["encounters"]]
    return value


def nested(depth: int) -> Any:
    node: Any = constant(0.5)
    for _ in range(depth):
        node = {"operator_type": "Nudge", "script_element_type": "Operator", "operands": [node, constant(0.1)]}
    return node


def desirable(script: Any) -> str:
    value = light()
    value["encounters"][0]["desirability_script"] = script
    return json.dumps(value)


def test_each_format_is_told_from_the_others() -> None:
    assert read_any(json.dumps(lighthouse())).dialect == "simple"
    assert read_any(json.dumps(beacon())).issues == ()
    assert read_any(TEXT).dialect == "editor"
    assert read_any("[]").world is None


def test_issues_of_the_simple_format_have_their_place() -> None:
    value = make(encounter("hut", option("go", "nowhere", {"gold": 1})), encounter("hut"))
    value["encounters"][0]["options"].insert(0, 5)
    issues = {issue.path: issue.message for issue in read_any(json.dumps(value)).issues}
    assert "not of type 'object'" in issues["$.encounters[0].options[0]"]
    assert "dangling" in issues["$.encounters[0].options[1].reactions[0].next_encounter"]
    assert "a second encounter" in issues["$.encounters[1].id"]


def test_the_nearest_name_is_the_repair() -> None:
    value = lighthouse()
    value["start"] = "sturm"
    option = value["encounters"][1]["options"][0]
    option["gates"][0]["variable"] = "oils"
    option["reactions"][0].update(next_encounter="celler", after_effects=[{"variable": "gold", "change": 1}])
    repairs = {issue.path.rsplit(".", 1)[1]: issue.repair for issue in read_any(json.dumps(value)).issues}
    assert repairs["start"] == "write 'storm'"
    assert repairs["next_encounter"] == "write 'cellar'"
    messages = {issue.message.split("'")[1]: issue.repair for issue in read_any(json.dumps(value)).issues}
    assert messages["oils"] == "write 'oil'"
    assert messages["gold"] == "declare it in `initial_state`"


def doubled(depth: int) -> Any:
    """A script that grows twofold with each level."""
    return (
        constant(0.5) if not depth else {"operator_type": "Blend", "operands": [doubled(depth - 1)] * 2 + [constant(0)]}
    )


def everywhere_wild() -> Any:
    """Each page leads to whatever may follow, again and again."""
    value = light()
    page = value["encounters"][0]
    for reaction in [one for choice in page["options"] for one in choice["reactions"]]:
        reaction["consequence_id"] = "wild"
    value["encounters"] = [{**page, "id": f"page_{number:04}", "latest_turn": 0} for number in range(9)]
    value["spools"][0]["encounters"] = [one["id"] for one in value["encounters"]]
    return value


BAD = {
    "empty": "",
    "truncated": TEXT[:-400],
    "no object": "3",
    "a stub": '{"IFID": "x", "spools": [], "encounters": [{"id": "a"}]}',
    "no encounter": '{"IFID": "x", "spools": []}',
    "byte order mark": "\ufeff" + TEXT,
    "infinity": desirable(constant(0)).replace('"value": 0}', '"value": Infinity}', 1),
    "1e308": desirable(constant(1e308)),
    "digits": desirable(constant(0)).replace('"value": 0}', f'"value": {"9" * 5000}}}', 1),
    "a date": desirable(constant("2026-01-02T03:04:05")),
    "deep script": desirable(nested(80)),
    "deeper than the parser": desirable(0).replace(
        ': 0, "options"', ": " + "[" * 50_000 + "]" * 50_000 + ', "options"', 1
    ),
    "wide script": desirable({"operator_type": "Addition", "operands": [constant(0.1)] * 50_000}),
    "one operand": desirable({"operator_type": "Addition", "operands": [constant(0.1)]}),
    "duplicate key": TEXT.replace('"IFID"', '"IFID": "y", "IFID"', 1),
    "large": json.dumps(large()),
    "exponential script": desirable(doubled(14)),
    "a wild loop": json.dumps(everywhere_wild()),
    "one id twice": json.dumps({**light(), "encounters": light()["encounters"] * 2}),
}
"""What authors and machines do to files."""


@pytest.mark.parametrize("name", BAD)
def test_bad_input_has_an_answer_in_bounded_time(name: str) -> None:
    start = time.thread_time()
    reading = read_any(BAD[name])
    if reading.world is not None:
        loader_issues(reading.value)
        write_sweepweave(reading.world)
    assert time.thread_time() - start < 5
    assert bool(reading.issues) is (name != "one operand")


def test_two_and_a_half_megabytes_are_checked_in_a_second() -> None:
    text = json.dumps(large())
    assert len(text) > 2_400_000
    start = time.thread_time()
    reading = read_any(text)
    loader_issues(reading.value)
    assert time.thread_time() - start < 1
    assert len(reading.world.encounters) == 700  # type: ignore[union-attr]


def test_what_perceives_what_is_bounded() -> None:
    value = light()
    names = [f"char_{i}" for i in range(300)]
    value["characters"][0]["bnumber_properties"]["pCalm"] = {name: dict.fromkeys(names, 0.1) for name in names}
    start = time.thread_time()
    reading = read_any(json.dumps(value))
    assert time.thread_time() - start < 2
    assert len(reading.world.variables) <= 20_000  # type: ignore[union-attr]


def test_a_file_beyond_the_limits_is_refused() -> None:
    assert "characters" in read_any(" " * (FILE_LIMITS.max_chars + 1)).issues[0].message
