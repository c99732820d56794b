"""The original's formulas on small cases worked out by hand; the measured ones are in test_golden_verifiers.py."""

import json
from typing import Any

import pytest

from lit_narrative.tasks.storyworld.verifiers.base import SIX, VerifierConfig
from lit_narrative.tasks.storyworld.verifiers.score import score
from tests.tasks.storyworld.lighthouse import encounter, lighthouse, make, option


def components(value: Any, **settings: int) -> dict[str, float]:
    text = value if isinstance(value, str) else json.dumps(value)
    return score(text, mode="original", config=VerifierConfig(**settings)).components  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["null", "[]", "{}", '"hello"'])
def test_any_json_earns_the_weight_of_json(text: str) -> None:
    result = score(text, mode="original")
    assert result.components == {**dict.fromkeys(SIX, 0.0), "valid_json": 1.0}
    assert result.total == pytest.approx(0.3)
    assert result.issues == ()


CRASHES = [
    "true",
    "123",
    '"encounters"',
    '{"encounters":{"a":{}}}',
    '{"encounters":["a"]}',
    '{"encounters":[1]}',
    '{"encounters":[{"options":null}]}',
    '{"encounters":[{"options":[{"reactions":[{"after_effects":[{"variable":[]}]}]}]}]}',
    "9" * 5000,
    "[" * 2000 + "]" * 2000,
    None,
]


@pytest.mark.parametrize("text", CRASHES)
def test_where_the_original_crashes_all_is_zero(text: Any) -> None:
    result = score(text, mode="original")
    assert result.components == dict.fromkeys(SIX, 0.0)
    assert result.total == 0.0
    assert "the original crashes on this text" in result.issues[0].message


def test_text_that_is_no_json_has_one_issue() -> None:
    (issue,) = score("{", mode="original").issues
    assert issue.message == "not JSON"


def test_structure_leaves_out_what_is_missing() -> None:
    assert components({"characters": {"a": {}, "b": {}}})["structure"] == 1.0
    assert components({"encounters": [{"options": [1]}, {}]}, min_encounters=4)["structure"] == 0.0  # crashes later
    assert components({"encounters": [{}, {}]}, min_encounters=4)["structure"] == pytest.approx(0.25)


def test_counts_that_mean_nothing_count() -> None:
    value = make(encounter("a", option("x", "nowhere", {"ghost": 0, "b": 0, "c": 0})))
    assert components(value)["effects"] == 1.0
    assert components(value)["endings"] == 0.0
    value["encounters"][0]["options"][0]["gates"] = "no"
    assert components(value)["secrets"] == 0.0  # one of one


def test_real_gates_are_not_needed() -> None:
    value = lighthouse()
    for gate in (gate for e in value["encounters"] for o in e["options"] for gate in o["gates"]):
        gate["value"] = 99
    assert components(value)["secrets"] == 1.0
    assert score(json.dumps(value)).components["secrets"] < 1.0
