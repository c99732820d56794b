"""Analyses in words: the text of a section is what its settings make true."""

import re
from dataclasses import asdict
from typing import Any

import pytest

from lit_narrative.circuits.analyses.ablation import AblationSettings
from lit_narrative.circuits.analyses.patching import PatchingSettings
from lit_narrative.circuits.linear_probe import ProbeSettings
from lit_narrative.circuits.suite import ANALYSES, CircuitSettings


def filled(analysis: str, **settings: object) -> str:
    groups = CircuitSettings(**settings).groups()
    return words(analysis, asdict(groups[analysis]) if analysis in groups else {})


def words(analysis: str, settings: dict[str, Any]) -> str:
    about = ANALYSES[analysis].about.filled(settings)
    return " ".join((about.title, about.question, about.reading))


@pytest.mark.parametrize("analysis", ANALYSES)
def test_every_word_is_filled_in_with_any_settings(analysis: str) -> None:
    for text in (filled(analysis), words(analysis, {})):
        assert not re.search(r"[{}]", text)


def test_what_takes_a_parts_place_is_named() -> None:
    assert "says what it says on average, and no more" in filled("ablation")
    assert "parts says nothing?" in filled("ablation", ablation=AblationSettings(mode="zero"))
    assert "on another row" in filled("ablation", ablation=AblationSettings(mode="resample"))


def test_the_share_that_probes_are_fitted_on_and_their_controls() -> None:
    assert "fitted on 75% of the reference split" in filled("probes")
    without = filled("probes", probes=ProbeSettings(test_size=0.4, controls=0))
    assert "fitted on 60%" in without and "there is no control" in without and "shuffled" not in without


def test_the_positions_that_are_patched() -> None:
    assert "Only positions that all pairs have" in filled("patching")
    assert "Every column is patched" in filled("patching", patching=PatchingSettings(places="columns"))
    assert "these positions are patched: answer, bos." in filled(
        "patching", patching=PatchingSettings(places=("answer", "bos"))
    )
