"""The rules of the editor's loader: what it would drop is said, file by file, part by part."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from lit_narrative.tasks.storyworld.formats.sweepweave.rules import loader_issues
from lit_narrative.tasks.storyworld.issues import validator
from tests.paths import LIGHT

Json = dict[str, Any]


def light() -> Json:
    value: Json = json.loads(LIGHT.read_text(encoding="utf-8"))
    return value


def test_our_own_file_loads_whole() -> None:
    assert loader_issues(light()) == ()
    assert validator("sweepweave").is_valid(light())


@pytest.mark.parametrize(
    ("change", "path", "words"),
    [
        (lambda v: v.pop("sweepweave_version"), "$.sweepweave_version", "refuses"),
        (lambda v: v.update(sweepweave_version="0.2.0"), "$.sweepweave_version", "refuses"),
        (lambda v: v["characters"][1].pop("pronoun"), "$.characters[1]", "pronoun"),
        (lambda v: v["authored_properties"][0].pop("depth"), "$.authored_properties[0]", "depth"),
        (lambda v: v["spools"][0].pop("spool_name"), "$.spools[0]", "spool_name"),
        (lambda v: v["encounters"][2].pop("graph_position_x"), "$.encounters[2]", "graph_position_x"),
        (lambda v: v["encounters"][0].update(latest_turn="9"), "$.encounters[0].latest_turn", "no number"),
        (lambda v: v["encounters"][0]["options"][1].pop("reactions"), "$.encounters[0].options[1]", "reactions"),
        (
            lambda v: v["encounters"][0]["options"][0]["reactions"][0].pop("desirability_script"),
            "$.encounters[0].options[0].reactions[0]",
            "desirability_script",
        ),
        (
            lambda v: v["encounters"][0]["options"][0]["reactions"][0]["after_effects"][0].update(effect_type="Set"),
            "$.encounters[0].options[0].reactions[0].after_effects[0].effect_type",
            "drops effects of the type 'Set'",
        ),
        (
            lambda v: v["encounters"][0]["desirability_script"].update(value=16.3),
            "$.encounters[0].desirability_script",
            "cuts 16.3 to 0.99",
        ),
    ],
)
def test_what_the_editor_would_not_load(change: Callable[[Json], object], path: str, words: str) -> None:
    value = light()
    change(value)
    (issue,) = loader_issues(value)
    assert issue.path == path
    assert words in issue.message
    assert validator("sweepweave").is_valid(value) is (issue.severity == "warning")


@pytest.mark.parametrize("value", [{}, {"encounters": "x"}, {"encounters": [3, {"options": [None]}]}, {"spools": {}}])
def test_any_object_is_looked_at(value: Json) -> None:
    assert loader_issues(value)[0].path == "$.sweepweave_version"
