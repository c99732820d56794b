"""SweepWeave files are recognised, and nothing else is taken for one."""

import json

import pytest

from lit_narrative.tasks.storyworld.formats.parse import UNSUPPORTED, detect
from lit_narrative.tasks.storyworld.verifiers.base import SIX
from lit_narrative.tasks.storyworld.verifiers.score import score
from tests.tasks.storyworld.lighthouse import lighthouse

SWEEPWEAVE = {"IFID": "SW-1", "characters": [], "authored_properties": [], "spools": [], "encounters": []}


def test_a_sweepweave_file_has_one_issue_and_earns_nothing() -> None:
    assert detect(SWEEPWEAVE) == "sweepweave"
    result = score(json.dumps(SWEEPWEAVE))
    assert result.issues == (UNSUPPORTED,)
    assert result.components == {**dict.fromkeys(SIX, 0.0), "valid_json": 1.0}
    assert result.total == 0.0
    assert result.world is None


@pytest.mark.parametrize("value", [{}, {"spools": []}, lighthouse(), {**lighthouse(), "IFID": "x", "spools": []}])
def test_the_rest_is_simple(value: dict) -> None:
    assert detect(value) == "simple"
