"""Strict mode: what earns, what does not, and what a caller may set."""

import json
import pickle
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from lit_narrative.errors import UserError
from lit_narrative.tasks.storyworld.formats.parse import Limits
from lit_narrative.tasks.storyworld.verifiers.base import DEFAULT_WEIGHTS, SIX, VerifierConfig
from lit_narrative.tasks.storyworld.verifiers.score import Score, _warn_of_former_mode, score
from tests.tasks.storyworld.lighthouse import Json, encounter, lighthouse, make, option


def judge(value: Json, **settings: Any) -> Score:
    return score(json.dumps(value), config=VerifierConfig(**settings))


def test_a_good_world_earns_everything_in_both_modes() -> None:
    for mode in ("strict", "original"):
        result = score(json.dumps(lighthouse()), mode=mode)
        assert result.components == dict.fromkeys(SIX, 1.0)
        assert result.total == pytest.approx(1.0)
        assert result.issues == ()


def test_the_same_story_with_endings_that_have_no_options_loses_a_gate_only() -> None:
    value = lighthouse()
    for last in value["encounters"][3:]:
        last["options"] = []
    # One gate of six options makes a difference; that in "boat" is open whenever it is offered.
    assert judge(value).components == {**dict.fromkeys(SIX, 1.0), "secrets": pytest.approx(1 / 6 / 0.2)}
    assert score(json.dumps(value), mode="original").total == pytest.approx(0.98)


@pytest.mark.parametrize("text", ["null", "true", "123", '"encounters"', "[]", "", "no", "[{}]", None, b"{}"])
def test_what_is_no_object_earns_nothing(text: Any) -> None:
    result = score(text)
    assert result.components == dict.fromkeys(SIX, 0.0)
    assert result.total == 0.0
    assert result.world is None
    assert len(result.issues) == 1


def test_every_truncation_of_a_world_earns_nothing() -> None:
    text = json.dumps(lighthouse())
    assert max(score(text[:end]).total for end in range(len(text))) == 0.0


@pytest.mark.parametrize(
    "text",
    ["{}", '{"a":1}', '{"characters":{}}', '{"characters":{},"initial_state":{},"properties":{},"encounters":[]}'],
)
def test_json_without_an_encounter_is_valid_but_earns_nothing(text: str) -> None:
    result = score(text)
    assert result.components == {**dict.fromkeys(SIX, 0.0), "valid_json": 1.0}
    assert result.total == 0.0


@pytest.mark.parametrize(
    ("path", "to", "least"),
    [
        (("encounters", 0, "options", 0, "reactions", 0, "next_encounter"), "nowhere", 0.8),
        (("encounters", 1, "options", 0, "gates", 0, "variable"), "ghost", 0.8),
        (("encounters", 0, "options", 0, "reactions", 0, "after_effects", 0, "variable"), "ghost", 0.8),
        (("encounters", 1, "id"), "storm", 0.5),
        (("encounters", 0, "options", 1, "id"), "tend", 0.8),
        (("encounters", 0, "options", 0, "reactions"), [], 0.8),
        (("initial_state", "oil"), 9, 0.8),
        (("properties", "oil", "min"), 6, 0.8),
        (("characters",), {"Mara": {}, "Teo": {}, "Ghost": {}}, 0.8),
        (("encounters", 0, "options", 0, "gates"), "no", 0.8),
        (("initial_state", "oil"), "3", 0.6),
        (("properties",), [], 0.8),
    ],
)
def test_one_fault_fails_its_check_only(path: tuple[str | int, ...], to: Any, least: float) -> None:
    value = lighthouse()
    *holders, last = path
    holder: Any = value
    for key in holders:
        holder = holder[key]
    holder[last] = to
    result = judge(value)
    assert least <= result.components["schema"] < 1.0
    assert any(issue.severity == "error" for issue in result.issues)


def test_duplicate_keys_lower_the_schema() -> None:
    text = json.dumps(lighthouse()).replace('"oil": 3', '"oil": 1, "oil": 3')
    assert 0.9 < score(text).components["schema"] < 1.0


def test_structure_is_the_mean_of_three_terms() -> None:
    # One of two characters, two of five encounters, and the one encounter that is no ending goes on.
    value = make(encounter("a", option("x", "b")), encounter("b"))
    assert judge(value).components["structure"] == pytest.approx((1 / 2 + 2 / 5 + 1) / 3)
    value["encounters"].append(encounter("c", option("x", "nowhere")))  # nothing leads there
    assert judge(value).components["structure"] == pytest.approx((1 / 2 + 2 / 5 + 1) / 3)
    value["encounters"][0]["options"].append(option("y", "c"))
    assert judge(value).components["structure"] == pytest.approx((1 / 2 + 2 / 5 + 1 / 2) / 3)
    value["encounters"] += [encounter("a"), encounter("a")]  # copies of an id do not count
    assert judge(value).components["structure"] == pytest.approx((1 / 2 + 2 / 5 + 1 / 2) / 3)
    assert judge(make(encounter("a"))).components["structure"] == pytest.approx((1 / 2 + 1 / 5) / 3)
    assert judge(make(encounter("a", option("x", "a")))).components["structure"] == 0.0


def test_effects_count_declared_variables_changed_where_the_story_can_go() -> None:
    value = make(
        encounter("a", option("x", "b", {"logs": 1, "Ada_calm": 0, "ghost": 1})),
        encounter("b"),
        encounter("attic", option("x", "b", {"Ada_calm": 1})),
    )
    assert judge(value).components["effects"] == pytest.approx(1 / 3)
    value["encounters"][0]["options"].append(option("y", "attic"))
    assert judge(value).components["effects"] == pytest.approx(2 / 3)
    after = {"after_effects": [{"variable": "Ada_calm", "change": 1}], "next_encounter": "b"}
    value["encounters"][0]["options"][1:] = []
    value["encounters"][0]["options"][0]["reactions"].append(after)  # never walked
    assert judge(value).components["effects"] == pytest.approx(1 / 3)


def test_endings_count_where_the_story_can_end_in_so_many_words() -> None:
    dead = {**option("x", None), "reactions": []}
    value = make(
        encounter("a", option("p", "b"), option("q", "c"), option("r", "d")),
        encounter("b"),
        encounter("c", dead),
        encounter("d", option("x", None), option("y", "nowhere")),
        encounter("attic"),
    )
    assert judge(value, min_endings=4).components["endings"] == 1 / 4
    value["encounters"][3]["options"].pop()
    assert judge(value, min_endings=4).components["endings"] == 2 / 4


def gated(*gate: Any) -> float:
    """Secrets of a world with one gated option of four, over logs in 3, 2 at the first encounter, 1 or 2 after it."""
    value = make(
        encounter("a", option("burn", "b", {"logs": -2}), option("save", "b", {"logs": -1})),
        encounter("b", option("x", None, gates=[gate]), option("y", None)),
    )
    return judge(value).components["secrets"]


@pytest.mark.parametrize(
    ("gate", "secret"),
    [
        (("logs", ">=", 2), True),  # true at the start and after saving, false after burning
        (("logs", "==", 1), True),
        (("logs", ">=", -99), False),  # a tautology
        (("logs", ">=", 99), False),  # never
        (("logs", "==", 3), False),  # true at the start, but shut whenever it is offered
        (("ghost", "==", 0), False),  # undeclared
    ],
)
def test_secrets_count_gates_that_make_a_difference(gate: tuple[str, str, float], secret: bool) -> None:
    assert gated(*gate) == (1.0 if secret else 0.0)


def test_secrets_depend_on_the_seed_only_through_the_plays() -> None:
    text = json.dumps(lighthouse())
    assert {score(text, seed=seed).total for seed in range(20)} == {1.0}


def test_weights_left_out_do_not_count_but_are_shown() -> None:
    result = judge(make(encounter("a")), weights={"valid_json": 0.5, "endings": 2})
    assert list(result.components) == list(SIX)
    assert result.total == 0.5 + 2 * 0.5


def test_minima_scale_their_components() -> None:
    strict = judge(lighthouse(), min_encounters=10, min_characters=4, min_endings=8, min_effect_types=6).components
    assert strict["structure"] == pytest.approx((2 / 4 + 5 / 10 + 1) / 3)
    assert strict["endings"] == 2 / 8
    assert strict["effects"] == 3 / 6


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"weights": {"secret": 1.0}}, "verifiers.weights: there is no 'secret'; did you mean 'secrets'"),
        ({"weights": {"nope": 1.0}}, "there is no 'nope' .known: effects, endings"),
        ({"weights": {"no_such_module:f": 1.0}}, "there is no module 'no_such_module'"),
        ({"weights": {"json:f": 1.0}}, "json has no function 'f'"),
        ({"weights": {"schema": -1.0}}, "the weight of 'schema' is -1.0"),
        ({"weights": {"schema": float("nan")}}, "must be a finite number"),
        ({"min_endings": 0}, "min_endings is 0; it must be 1 or more"),
    ],
)
def test_a_wrong_setting_is_one_clear_error(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        VerifierConfig(**settings)


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(UserError, match=r"mode: there is no 'sed' .known: strict, original"):
        score("{}", mode="sed")  # type: ignore[arg-type]


def test_the_former_name_of_the_mode_original_is_accepted_with_a_notice(caplog: pytest.LogCaptureFixture) -> None:
    _warn_of_former_mode.cache_clear()
    text = json.dumps(lighthouse())
    assert [score(text, mode="seed") for _ in range(2)] == [score(text, mode="original")] * 2
    assert [record.message for record in caplog.records] == ["the mode 'seed' of score is now called 'original'"]


def test_the_former_name_of_plays_is_accepted_with_a_notice(caplog: pytest.LogCaptureFixture) -> None:
    config = VerifierConfig(rehearsals=7)
    assert config == VerifierConfig(plays=7)
    assert replace(config, plays=3).plays == 3
    assert [record.message for record in caplog.records] == [
        "verifiers.rehearsals is now called plays; use verifiers.plays=7"
    ]
    with pytest.raises(UserError, match="plays is 0; it must be 1 or more"):
        VerifierConfig(rehearsals=0)


def test_forgiving_limits_are_used() -> None:
    text = json.dumps(lighthouse())
    half = score(text + " " + "x" * (len(text) - 1), config=VerifierConfig(limits=Limits(allow_trailing_text=True)))
    assert half.components["valid_json"] == pytest.approx(0.5)
    assert half.total == pytest.approx(1 - 0.3 / 2)
    fenced = score(f"```json\n{text}\n```", config=VerifierConfig(limits=Limits(strip_code_fence=True)))
    assert fenced.total == pytest.approx(1.0)


def test_scores_are_pure_and_travel_between_processes() -> None:
    text = json.dumps(lighthouse())
    first = score(text, config=VerifierConfig(weights={**DEFAULT_WEIGHTS, "playability": 0.1}))
    assert first == pickle.loads(pickle.dumps(first))
    assert pickle.loads(pickle.dumps(first)).issues == first.issues
    program = (
        "import sys; from lit_narrative.tasks.storyworld.verifiers.score import score;"
        "r = score(sys.stdin.read()); print(r.components, r.total, r.issues, 'torch' in sys.modules)"
    )
    faulty = text.replace("wreck", "wrack", 1)
    here = score(faulty)
    for hash_seed in ("1", "2"):
        there = subprocess.run(
            [sys.executable, "-c", program], input=faulty, capture_output=True, text=True, check=True,
            env={"PYTHONHASHSEED": hash_seed},
        )  # fmt: skip
        assert there.stdout.strip() == f"{here.components} {here.total} {here.issues} False"


def test_a_world_of_2000_encounters_is_judged_at_bounded_cost() -> None:
    import time

    scenes = [
        encounter(f"e{i}", option("a", f"e{i + 1}", {"logs": -1}), option("b", f"e{i + 1}", gates=[("logs", ">", 1)]))
        for i in range(2000)
    ]
    text = json.dumps(make(*scenes, encounter("e2000")))
    start = time.thread_time()
    result = score(text)
    assert time.thread_time() - start < 2.0
    assert 0 < result.components["secrets"] < 0.1  # plays come as far as the 20th encounter
    assert result.components["endings"] == 0.5
    wide = make(encounter("a", *[option(f"o{i}", None, gates=[("logs", ">", i)]) for i in range(5000)]))
    start = time.thread_time()
    assert judge(wide).components["secrets"] == 0.0
    assert time.thread_time() - start < 2.0
