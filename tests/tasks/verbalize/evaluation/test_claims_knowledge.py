"""Whose knowledge: an explanation follows the world whose fact it tells."""

import numpy as np
import pytest

from lit_narrative.report.intervals import Resamples
from lit_narrative.tasks.verbalize.evaluation.claims import knowledge_scores
from lit_narrative.tasks.verbalize.stories import NAMES, SLOTS, claims, facts, stories

FIRST, SECOND = facts("first"), facts("second")


def test_explanations_follow_the_world_that_they_tell() -> None:
    assert FIRST is not None and SECOND is not None
    told = [*stories(0, "test", 30, SECOND)]
    resamples, known = Resamples([story.text for story in told]), [claims(story.text) for story in told]
    own = [claims(f"{story.slots['who']} {story.slots['animal']}") for story in told]
    memory = [claims(FIRST.values[story.slots["who"]]) for story in told]
    assert knowledge_scores(resamples, own, known)["follows_second"] == 1
    assert knowledge_scores(resamples, own, known)["follows_first"] == 0
    assert knowledge_scores(resamples, memory, known)["follows_first"] == 1
    silent = knowledge_scores(resamples, [set()] * 30, known)
    assert silent == {f"follows_{world}{end}": None for world in ("first", "second") for end in ("", "_ci")}


def test_random_animals_follow_each_world_by_chance() -> None:
    rng, count = np.random.default_rng(0), 2000
    animals = [SLOTS["animal"][rng.integers(8)] for _ in range(count)]
    known = [{("who", NAMES[rng.integers(len(NAMES))])} for _ in range(count)]
    scores = knowledge_scores(Resamples([*map(str, range(count))]), [claims(animal) for animal in animals], known)
    assert scores["follows_first"] == pytest.approx(1 / 8, abs=0.03) == scores["follows_second"]
