"""No world within the limit on texts takes more than two microseconds a character, whoever asks about it."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from lit_narrative.tasks.storyworld.adherence import adherence
from lit_narrative.tasks.storyworld.feature_quality import FeatureQuality
from lit_narrative.tasks.storyworld.formats.parse import Limits
from lit_narrative.tasks.storyworld.pieces import encounter_spans
from lit_narrative.tasks.storyworld.report.world_graph import draw_world
from lit_narrative.tasks.storyworld.similarity import unique_shares
from lit_narrative.tasks.storyworld.simulator.statistics import simulate
from lit_narrative.tasks.storyworld.states import StateLayout, dimension
from lit_narrative.tasks.storyworld.verifiers.base import COMPONENTS, DEFAULT_WEIGHTS, VerifierConfig, read_text
from lit_narrative.tasks.storyworld.verifiers.explain import explain
from lit_narrative.tasks.storyworld.verifiers.score import score
from lit_narrative.views import Rollout
from tests.tasks.storyworld.large_worlds import KINDS, large_world

EVERYTHING = VerifierConfig(
    weights={**dict.fromkeys(COMPONENTS, 0.0), **DEFAULT_WEIGHTS},
    limits=Limits(strip_code_fence=True, allow_trailing_text=True, extract_first_object=True),
)
PER_CHARACTER, CONSTANT = 2e-6, 0.3
"""Seconds."""


def of_features(text: str) -> None:
    quality, layout = FeatureQuality(), StateLayout(32, np.zeros(dimension(32)), np.ones(dimension(32)))
    quality.update_encoder(lambda states: (states[:, :8], states), layout, 0)
    nothing = torch.zeros(0)
    quality([Rollout(nothing, nothing, nothing, True, text)])
    encounter_spans(text)


def simulated(text: str) -> None:
    if (world := score(text).world) is not None:
        simulate(world, 2, 0)


def drawn(text: str) -> None:
    if (world := score(text).world) is not None and world.encounters:
        draw_world(world, "a world")


def kept(text: str) -> None:
    world = score(text).world
    for theme in ("a mine at war", "a lonely moon"):
        adherence(world, {"cast": ["a"], "properties": ["trust"], "theme": theme})


QUESTIONS: tuple[Callable[[str], Any], ...] = (
    score,
    lambda text: explain(read_text(text, 0, VerifierConfig())),
    lambda text: score(text, mode="original").issues,
    lambda text: score(text, config=EVERYTHING),
    lambda text: score(text).parts,
    kept,
    lambda text: unique_shares([text]),
    of_features,
    simulated,
    drawn,
)


def check_time(*kinds: str, size: int = 2**20, slack: float = 1.0) -> None:
    for question in QUESTIONS:
        question(large_world("encounters", 2**12))  # what they import is not their time
    slow = []
    for kind in kinds:
        text = large_world(kind, size)
        for number, question in enumerate(QUESTIONS):
            start = time.thread_time()
            question(text)
            took = time.thread_time() - start
            if took > slack * (CONSTANT + PER_CHARACTER * len(text)):
                slow.append(f"{kind}, question {number}: {took:.2f} s for {len(text):,} characters")
    assert slow == []


def test_thousands_of_encounters_with_one_id() -> None:
    # A busy machine takes up to twice as long; what this guards against took 13 microseconds a character and more.
    check_time("encounters with one id", size=2**18, slack=3)


def test_faults_of_shape_in_a_long_text_are_counted() -> None:
    text = large_world("reactions and a broken encounter", 2**17)
    assert "malformed encounters: 1" in " ".join(issue.message for issue in score(text).issues)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_kind_of_part() -> None:
    check_time(*KINDS)
