"""Measured scores of the original system (the mode ``original``), and what strict mode is to do with the same texts."""

import functools
import hashlib
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from lit_narrative.errors import UserError
from lit_narrative.tasks.storyworld.formats.parse import Limits
from lit_narrative.tasks.storyworld.formats.simple import read_world
from lit_narrative.tasks.storyworld.simulator.play import all_paths
from lit_narrative.tasks.storyworld.verifiers.base import DEFAULT_WEIGHTS, SIX, VerifierConfig
from lit_narrative.tasks.storyworld.verifiers.score import Score, score
from tests.paths import GOLDEN

pytestmark = pytest.mark.golden

FOLDER = GOLDEN
VERIFIERS = FOLDER / "storyworld_verifiers.json"
ABSENT = f"no golden values at {FOLDER}; set LIT_GOLDEN"


@functools.cache
def golden(name: str) -> Any:
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


def entries(name: str, *keys: str) -> list[Any]:
    """Names of the entries of a golden file; one entry that skips where the file is absent."""
    if not (FOLDER / name).exists():
        return [pytest.param("absent", marks=pytest.mark.skip(ABSENT))]
    value = golden(name)
    for key in keys:
        value = value[key]
    return [entry["name"] for entry in value] if isinstance(value, list) else list(value)


def fixture(name: str) -> str:
    return json.dumps(golden("storyworld_own_fixtures.json")[name], separators=(",", ":"))


def text_of(name: str) -> tuple[dict[str, Any], str]:
    (case,) = [case for case in golden("storyworld_verifiers.json")["cases"] if case["name"] == name]
    if name == "big_2000_encounters":
        pytest.skip("the file holds no text of this case; a world of our own of that size is in test_verifiers.py")
    text = fixture("sweepweave_tiny") if name == "sweepweave_tiny_own" else case["text"]
    assert len(text) == case["chars"]
    assert hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest() == case["sha256"]
    return case, text


def same(result: Score, expected: dict[str, Any]) -> None:
    if "raises" in expected:
        expected = dict.fromkeys((*SIX, "total"), 0.0)
    assert {**result.components, "total": result.total} == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", entries("storyworld_verifiers.json", "cases"))
def test_the_mode_original_repeats_it(name: str) -> None:
    case, text = text_of(name)
    same(score(text, mode="original"), case["original"])


@pytest.mark.parametrize("name", entries("storyworld_verifiers.json", "real_files"))
@pytest.mark.parametrize("part", ["scores", "scores_truncated_2000_chars"])
def test_the_mode_original_on_real_files(name: str, part: str) -> None:
    case = golden("storyworld_verifiers.json")["real_files"][name]
    for path in sorted((FOLDER.parent / "data" / "sweepweave").glob("*.json")):
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() == case["sha256"]:
            text = content.decode("utf-8")
            same(score(text if part == "scores" else text[:2000], mode="original"), case[part])
            return
    pytest.skip(f"no file with sha256 {case['sha256'][:12]} among the data")


def refused(**settings: Any) -> None:
    with pytest.raises(UserError):
        VerifierConfig(**settings)


CUSTOM: dict[str, Callable[[dict[str, Any]], None]] = {
    "weights_missing_keys": lambda expected: same(
        score(fixture("lighthouse_simple"), mode="original", config=VerifierConfig(weights={"valid_json": 1.0})),
        expected,
    ),
    "min_ten": lambda expected: same(
        score(
            fixture("lighthouse_simple"),
            mode="original",
            config=VerifierConfig(min_encounters=10, min_characters=10, min_endings=10, min_effect_types=10),
        ),
        expected,
    ),
    "text_none": lambda expected: same(score(None, mode="original"), expected),
    # A wrong setting is no fault of a text: it is refused before anything is scored.
    "weights_unknown_key": lambda expected: refused(weights={"nope": 1.0}),
    "min_zero": lambda expected: refused(min_encounters=0),
}


@pytest.mark.parametrize("name", entries("storyworld_verifiers.json", "custom"))
def test_settings_of_the_original(name: str) -> None:
    CUSTOM[name](golden("storyworld_verifiers.json")["custom"][name])


@pytest.mark.skipif(not VERIFIERS.exists(), reason=ABSENT)
def test_default_weights_are_the_originals() -> None:
    assert golden("storyworld_verifiers.json")["default_weights"] == DEFAULT_WEIGHTS
    assert golden("storyworld_verifiers.json")["component_order"] == list(SIX)


# Strict mode: what `recommended` says of each case.


def messages(result: Score) -> str:
    return " | ".join(f"{issue.path} {issue.message}" for issue in result.issues if issue.severity == "error")


def all_zero(text: str) -> None:
    result = score(text)
    assert result.components == dict.fromkeys(SIX, 0.0)
    assert result.total == 0.0


def zero_unless(**limits: bool) -> Callable[[str], None]:
    """All 0, unless the named option forgives it: then the world inside earns its marks."""

    def check(text: str) -> None:
        all_zero(text)
        forgiven = score(text, config=VerifierConfig(limits=Limits(**limits)))
        assert forgiven.total > 0.9
        if "strip_code_fence" not in limits:  # a length penalty
            assert 0.9 < forgiven.components["valid_json"] < 1.0

    return check


def shaped(least: float) -> Callable[[str], None]:
    """All 0; the optional component sees how far the text is sound."""

    def check(text: str) -> None:
        all_zero(text)
        config = VerifierConfig(weights={**DEFAULT_WEIGHTS, "json_prefix": 0.0})
        assert least < score(text, config=config).components["json_prefix"] < 1.0
        assert score(text, config=config).total == 0.0

    return check


def hack(text: str) -> None:
    result = score(text)
    assert {name: result.components[name] for name in ("effects", "secrets", "endings")} == {
        "effects": 0.0,
        "secrets": 0.0,
        "endings": 0.0,
    }
    assert result.total == 0.0
    assert "'id', 'text' are required properties" in messages(result)


def empty_object(text: str) -> None:
    result = score(text)
    assert result.components["valid_json"] == 1.0
    assert result.components["schema"] == 0.0
    assert result.total == 0.0


def no_encounters(text: str) -> None:
    result = score(text)
    assert result.components["schema"] == 0.0
    assert [result.components[name] for name in ("effects", "secrets", "endings")] == [0.0, 0.0, 0.0]
    assert "is not of type" in messages(result)


def list_variable(text: str) -> None:
    result = score(text)
    assert 0.9 < result.components["schema"] < 1.0
    assert "after_effects[0].variable ['oil'] is not of type 'string'" in messages(result)
    assert result.world is not None
    assert len(result.world.encounters[0].options[0].reactions[0].effects) == 1


def zero_change(text: str) -> None:
    # Three variables change elsewhere; with every change 0 nothing counts, where the original still paid in full.
    assert score(text).components["effects"] == 1.0
    still = json.loads(text)
    for effect in (
        e for n in still["encounters"] for o in n["options"] for r in o["reactions"] for e in r["after_effects"]
    ):
        effect["change"] = 0
    assert score(json.dumps(still), mode="original").components["effects"] == 1.0
    assert score(json.dumps(still)).components["effects"] == 0.0
    for change in ("1e999", "NaN", '"1"', "null", "true"):
        text = json.dumps(still).replace('"change": 0', f'"change": {change}')
        assert score(text).components["effects"] == 0.0


def undeclared(text: str) -> None:
    result = score(text)
    assert result.components["effects"] == pytest.approx(2 / 3)
    assert result.components["schema"] < 1.0
    assert "variable 'ghost' is not declared" in messages(result)


def dangling(text: str) -> None:
    result = score(text)
    assert result.components["endings"] == 0.0
    assert result.components["schema"] < 1.0
    assert messages(result).count("dangling reference: there is no encounter 'nowhere'") == 4


def unreachable(text: str) -> None:
    assert score(text).components["endings"] == 0.0


def one_ending(text: str) -> None:
    assert score(text).components["endings"] == 0.5


def no_live_gate(text: str) -> None:
    """x starts at 0 and only grows: `x >= 0` is always true, however many options have it."""
    assert score(text).components["secrets"] == 0.0


def live_gates(text: str) -> None:
    """As above with the threshold moved to where it matters: the curve of the original over the share of gates."""
    no_live_gate(text)
    live = text.replace('"comparison":">=","value":0', '"comparison":">=","value":3')
    assert score(live).components["secrets"] == pytest.approx(score(text, mode="original").components["secrets"])


def gates_string(text: str) -> None:
    result = score(text)
    assert "gates 'no' is not of type 'array'" in messages(result)
    assert result.components["schema"] < 1.0
    assert result.components["secrets"] == 1.0


def sweepweave(text: str) -> None:
    result = score(text)  # after conversion, as the world that it is
    assert {issue.severity for issue in result.issues} == {"warning"}
    assert (result.components["schema"], result.components["endings"]) == (1.0, 1.0)
    assert (result.components["secrets"], result.parts["playable"]) == (0.0, True)
    assert 0.7 < result.total < 0.9


def bounded_cost(text: str) -> None:
    start = time.thread_time()
    assert score(text).total > 0.0
    assert time.thread_time() - start < 2.0
    assert score(text, config=VerifierConfig(limits=Limits(max_chars=len(text) - 1))).total == 0.0


RECOMMENDED: dict[str, Callable[[str], None]] = {
    "reward_hack_minimal": hack,
    "empty_array": all_zero,
    "empty_object": empty_object,
    "number": all_zero,
    "string_encounters": all_zero,
    "string_other": all_zero,
    "not_json": all_zero,
    "empty_text": all_zero,
    "truncated": shaped(0.9),
    "truncated_last_brace": shaped(0.99),
    "code_fence": zero_unless(strip_code_fence=True),
    "leading_prose": zero_unless(extract_first_object=True),
    "trailing_text": zero_unless(allow_trailing_text=True),
    "trailing_comma": all_zero,
    "encounters_object": no_encounters,
    "encounter_is_string": no_encounters,
    "encounter_is_int": no_encounters,
    "effect_variable_list": list_variable,
    "effect_zero_change": zero_change,
    "effect_undeclared_variable": undeclared,
    "dangling_next": dangling,
    "unreachable_endings": unreachable,
    "one_ending": one_ending,
    "gate_ratio_00_of_20": no_live_gate,
    "gate_ratio_01_of_20": live_gates,
    "gate_ratio_07_of_20": live_gates,
    "gate_ratio_10_of_20": live_gates,
    "gate_ratio_11_of_20": live_gates,
    "gate_ratio_20_of_20": no_live_gate,
    "gates_string": gates_string,
    "big_2000_encounters": bounded_cost,
    "sweepweave_tiny_own": sweepweave,
}


@pytest.mark.parametrize("name", entries("storyworld_verifiers.json", "cases"))
def test_strict_mode_does_what_is_recommended(name: str) -> None:
    assert name in RECOMMENDED, f"no check for the recommended score of {name}"
    RECOMMENDED[name](text_of(name)[1])


@pytest.mark.parametrize("name", entries("storyworld_recommended.json", "simple_play"))
def test_every_complete_path(name: str) -> None:
    world, malformed = read_world(golden("storyworld_own_fixtures.json")[name])
    assert world is not None
    assert not malformed
    paths = [
        {"choices": list(path.choices), "ending": path.ending, "kind": path.outcome, "state": path.state}
        for path in all_paths(world)
    ]
    expected = golden("storyworld_recommended.json")["simple_play"][name]["paths"]
    assert sorted(paths, key=lambda path: path["choices"]) == sorted(expected, key=lambda path: path["choices"])


@pytest.mark.parametrize(("name", "secrets"), [("lighthouse_simple", 1.0), ("lighthouse_optionless_endings", 5 / 6)])
@pytest.mark.skipif(not VERIFIERS.exists(), reason=ABSENT)
def test_both_fixtures_earn_full_marks_but_for_gates_that_are_always_open(name: str, secrets: float) -> None:
    assert score(fixture(name)).components == {**dict.fromkeys(SIX, 1.0), "secrets": pytest.approx(secrets)}
