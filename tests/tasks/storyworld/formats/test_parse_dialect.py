"""Detection of SweepWeave files and of their dialects."""

import json
from typing import Any

import pytest

from lit_narrative.tasks.storyworld.formats.parse import detect, sweepweave_dialect
from tests.paths import LIGHT, WORLDS
from tests.tasks.storyworld.lighthouse import beacon, lighthouse

REAL = {
    "diplo1": "generated",
    "forecast_backstab_p": "generated",
    "macbeth_storyworld_v2": "stub",
    "gaza_doctor": "editor",
    "the_fifth_testimony_p2": "editor",
}
DIALECTS = list(REAL) if WORLDS.is_dir() else [pytest.param("", marks=pytest.mark.skip(f"no files in {WORLDS}"))]


def light() -> Any:
    return json.loads(LIGHT.read_text(encoding="utf-8"))


def test_what_is_a_sweepweave_file() -> None:
    for value in (light(), {"encounters": light()["encounters"]}, {"IFID": "", "spools": []}):
        assert detect(value) == "sweepweave"
    for value in (lighthouse(), beacon(), {}, {"encounters": [3]}, {"IFID": ""}, {**light(), "initial_state": {}}):
        assert detect(value) == "simple"


def test_dialects() -> None:
    value = light()
    assert sweepweave_dialect(value) == "editor"
    effect = value["encounters"][0]["options"][0]["reactions"][0]["after_effects"][0]
    effect["effect_type"] = "Set"
    assert sweepweave_dialect(value) == "mixed"
    text = json.dumps(value).replace("Number Pointer", "Number Property").replace("Number Effect", "Number Change")
    assert sweepweave_dialect(json.loads(text)) == "generated"
    assert sweepweave_dialect({"encounters": [{"options": [{"reactions": []}]}]}) == "stub"
    assert sweepweave_dialect({}) == "stub"


@pytest.mark.parametrize("name", DIALECTS)
def test_dialects_of_real_files(name: str) -> None:
    path = WORLDS / f"{name}.json"
    if not path.exists():
        pytest.skip(f"no {path}")
    assert sweepweave_dialect(json.loads(path.read_text(encoding="utf-8"))) == REAL[name]
