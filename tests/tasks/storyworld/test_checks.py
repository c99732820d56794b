"""Checks, lint warnings and issues: each fault is found once, and its path leads to it in the file."""

import json
import re
from typing import Any

import pytest

from lit_narrative.tasks.storyworld.checks import CHECKS, faults, ways_out
from lit_narrative.tasks.storyworld.formats.simple import read_counting
from lit_narrative.tasks.storyworld.issues import Issue, json_path, schema_issues
from lit_narrative.tasks.storyworld.simulator.graph import lint_warnings
from lit_narrative.tasks.storyworld.simulator.plan import make_plan
from lit_narrative.tasks.storyworld.verifiers.components import schema_share
from lit_narrative.tasks.storyworld.verifiers.score import score
from tests.tasks.storyworld.lighthouse import encounter, lighthouse, make, option, read


def follow(path: str, value: Any) -> Any:
    for name, quoted, index in re.findall(r"\.([A-Za-z_]\w*)|\[(\"[^\"]*\")\]|\[(\d+)\]", path):
        value = value[int(index) if index else json.loads(quoted) if quoted else name]
    return value


def errors(value: Any) -> list[Issue]:
    return [issue for issue in score(json.dumps(value)).issues if issue.severity == "error"]


def test_a_sound_world_has_no_fault_and_no_lint_warning() -> None:
    world = read(lighthouse())
    assert list(faults(world)) == []
    assert list(lint_warnings(make_plan(world))) == []
    assert schema_share(world, read_counting(lighthouse())[1], 0, [[] for _ in CHECKS]) == 1.0


@pytest.mark.parametrize(
    ("path", "to", "where", "says"),
    [
        (("encounters", 1, "id"), "storm", "$.encounters[1].id", "a second encounter 'storm'"),
        (("encounters", 0, "options", 1, "id"), "tend", "$.encounters[0].options[1].id", "a second option 'tend'"),
        (
            ("encounters", 2, "options", 1, "reactions", 0, "next_encounter"),
            "nowhere",
            "$.encounters[2].options[1].reactions[0].next_encounter",
            "dangling reference: there is no encounter 'nowhere'",
        ),
        (("encounters", 0, "options", 0, "reactions"), [], "$.encounters[0].options[0].reactions", "dead end"),
        (
            ("encounters", 1, "options", 0, "gates", 0, "variable"),
            "ghost",
            "$.encounters[1].options[0].gates[0].variable",
            "'ghost' is not declared",
        ),
        (
            ("encounters", 0, "options", 0, "reactions", 0, "after_effects", 1, "variable"),
            "ghost",
            "$.encounters[0].options[0].reactions[0].after_effects[1].variable",
            "'ghost' is not declared",
        ),
        (("characters", "Old Tom"), {}, '$.characters["Old Tom"]', "no variable Old Tom_<property>"),
        (("properties", "oil"), {"min": 6, "max": 5}, "$.properties.oil", "min 6 exceeds max 5"),
        (("initial_state", "oil"), 9, "$.initial_state.oil", "9 lies outside its bounds [0, 5]"),
    ],
)
def test_each_fault_has_a_path_that_leads_to_it(path: tuple[Any, ...], to: Any, where: str, says: str) -> None:
    value = lighthouse()
    *holders, last = path
    holder: Any = value
    for key in holders:
        holder = holder[key]
    holder[last] = to
    (issue,) = [issue for issue in errors(value) if says in issue.message]
    assert issue.path == where
    assert follow(issue.path, value) == to


def test_paths_count_the_malformed_parts_that_the_reader_drops() -> None:
    value = lighthouse()
    value["encounters"].insert(0, 5)
    value["encounters"][3]["options"].insert(0, {"text": "no id"})
    dig = value["encounters"][3]["options"][1]
    dig["gates"] = [{"variable": 1}, {"variable": "ghost", "comparison": ">", "value": 1}]
    dig["reactions"][0]["after_effects"] = [[], {"variable": "ghost", "change": 2}]
    result = [issue for issue in errors(value) if "ghost" in issue.message]
    assert [follow(issue.path, value) for issue in result] == ["ghost", "ghost"]


def test_schema_issues_of_one_list_are_one_issue() -> None:
    value = make(*["storm"] * 30)  # type: ignore[list-item]
    (issue,) = schema_issues(value)
    assert issue.path == "$.encounters[0]"
    assert "(and 29 more such faults)" in issue.message
    value["initial_state"] = {"a": "x", "b": "y"}
    assert len(schema_issues(value)) == 2


def test_all_keys_that_a_part_lacks_are_named_at_once() -> None:
    assert [issue.message for issue in schema_issues({"characters": {}})] == [
        "'initial_state', 'properties', 'encounters' are required properties"
    ]
    (issue,) = schema_issues({**lighthouse(), "encounters": [{"id": "storm"}, {"text": "Rain."}]})
    assert issue.path == "$.encounters[0]"
    assert issue.message == "'text', 'options' are required properties (and 2 more such faults)"


def test_a_long_value_does_not_fill_the_message() -> None:
    (issue,) = schema_issues(make("x" * 100_000))  # type: ignore[arg-type]
    assert len(issue.message) < 250
    assert "is not of type 'object'" in issue.message


def test_paths_quote_names_that_are_not_plain() -> None:
    assert json_path(["a", 0, "b c", "d"]) == '$.a[0]["b c"].d'
    assert json_path([]) == "$"


def test_lint_warnings_are_warnings_and_traps_are_errors() -> None:
    world = make(
        encounter("a", option("x", "b", {"logs": 0})),
        encounter("b", option("x", "b")),
        encounter("attic", option("x", None)),
    )
    result = score(json.dumps(world))
    warnings = {(i.path, i.message) for i in result.issues if i.severity == "warning"}
    assert {
        ("$.encounters[2]", "no option leads to encounter 'attic'"),
        ("$.encounters", "no ending can be reached"),
        ("$.initial_state.logs", "variable 'logs' is neither read by a gate nor changed"),
        ("$", "reachable endings: 0; 2 or more earn full marks"),
    } <= warnings
    traps = [(i.path, i.message) for i in result.issues if i.severity == "error"]
    assert traps == [
        (f"$.encounters[{i}]", f"trap: from encounter '{n}' no ending can be reached") for i, n in enumerate("ab")
    ]
    assert result.components["schema"] < 1.0


def test_the_schema_share_counts_checks_not_faults() -> None:
    value = lighthouse()
    one, many = json.dumps(value).replace('"boat"', '"x"', 1), json.dumps(value)
    for name in ("boat", "wreck", "dawn"):
        many = many.replace(f'"next_encounter": "{name}"', '"next_encounter": "x"')
    assert score(one).components["schema"] == score(many).components["schema"] < 1.0


def test_a_way_out_by_a_reaction_that_is_at_times_more_desirable() -> None:
    value = make(encounter("hut", option("go", "hut")), encounter("night"))
    reactions = value["encounters"][0]["options"][0]["reactions"]
    reactions.append({"after_effects": [], "next_encounter": "night"})
    assert len(list(ways_out(read(value)))) == 1
    reactions[1]["desirability"] = "logs"
    assert list(ways_out(read(value))) == []
