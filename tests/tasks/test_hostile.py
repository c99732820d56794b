"""Every parser of a task that a model's text reaches, on hostile texts: no exception, two microseconds a character."""

import json
import math
import random
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from lit_narrative.tasks.cards.answers import REWARDS as CARD_REWARDS
from lit_narrative.tasks.cards.answers import parse as parse_answer
from lit_narrative.tasks.cards.answers import score as judge_answers
from lit_narrative.tasks.cards.scores import set_scores
from lit_narrative.tasks.poetry.grammar import content_share
from lit_narrative.tasks.poetry.metrics import majority_topic
from lit_narrative.tasks.poetry.poems import find_poems
from lit_narrative.tasks.poetry.rewards import REWARDS as VERSE_REWARDS
from lit_narrative.tasks.poetry.topics import TOPICS
from lit_narrative.tasks.storyworld.feature_quality import FeatureQuality
from lit_narrative.tasks.storyworld.formats.simple import read_world
from lit_narrative.tasks.storyworld.pieces import encounter_spans
from lit_narrative.tasks.storyworld.report.world_graph import draw_world
from lit_narrative.tasks.storyworld.similarity import unique_shares
from lit_narrative.tasks.storyworld.simulator.play import play
from lit_narrative.tasks.storyworld.simulator.statistics import simulate
from lit_narrative.tasks.storyworld.states import StateLayout, dimension
from lit_narrative.tasks.storyworld.verifiers.score import score
from lit_narrative.text import distinct_n, repetition
from lit_narrative.views import Rollout
from tests.tasks.cards.hands import columns
from tests.tasks.storyworld.test_hostile import EVERYTHING, mistyped, mutated

PER_CHARACTER, CONSTANT = 2e-6, 0.3
"""Seconds; the constant leaves room for a pause of another process."""
CASES = [
    c for c in map(chr, range(sys.maxunicode + 1)) if len({c, c.upper().lower(), c.lower().upper(), c.casefold()}) > 2
]
"""Letters whose capitals, small letters and folded forms are not one another's."""
PIECES = [
    *(
        "BIG",
        "SMALL",
        "big",
        "Answer:",
        "answer :",
        ";",
        ",",
        "-",
        "+",
        "5",
        "-12",
        "9" * 400,
        "٣",
        "1e999",
        "3.5",
        "3-4",
    ),
    *(
        " ",
        "\n",
        "\n\n",
        "\t",
        " " * 50,
        "\r",
        "\x00",
        "\u2028",
        "\ufeff",
        "\ud83d",
        "\udc00",
        "\ud83d\ude00",
        "İ",
        "ı",
    ),
    *(
        "ſ",
        "ß",
        "ﬁ",
        "K",
        "i\u0307",
        "’",
        "'",
        "the",
        "night",
        "sea",
        "[",
        "]",
        "[a",
        "CONTENTS",
        "XIV.",
        "by A. B",
        "***",
    ),
    *('{"id":', '"id":"a"', "}", '"', "\\", "\\ud83d", "null", '"gates":[[[[', "<|endoftext|>", "_" * 30, "12" * 20),
]
LAYOUT = StateLayout(32, np.zeros(dimension(32)), np.ones(dimension(32)))


def hostile_text(rng: random.Random) -> str:
    """Pieces that some parser looks for, letters with odd cases, and a run of one of them."""
    pieces = [rng.choice(PIECES) if rng.random() < 0.7 else rng.choice(CASES) for _ in range(rng.randrange(1, 60))]
    return rng.choice(["", " "]).join(pieces) + rng.choice(PIECES) * (rng.randrange(200) if rng.random() < 0.1 else 0)


def hostile_world(rng: random.Random) -> str:
    """A world that was cut, doubled or mistyped, with odd letters, repeated keys and ids, nesting and huge numbers."""
    text = mutated(rng) if rng.random() < 0.5 else mistyped(rng)
    for _ in range(rng.randrange(4)):
        at = rng.randrange(len(text) + 1)
        deep = rng.randrange(200)
        piece = rng.choice(
            [rng.choice(CASES), rng.choice(PIECES), "[" * deep + "]" * deep, '"id":"storm",', "9" * 4301]
        )
        text = text[:at] + piece + text[at:]
    return text if rng.random() < 0.8 else text.replace('"id":"', '"id":"a","id":"' + rng.choice(CASES))


def written(prompt: str, text: str, row: dict[str, Any]) -> Rollout:
    empty = torch.zeros(0)
    return Rollout(empty, empty, empty, True, text, prompt, row)


def judge_world(text: str) -> None:
    for mode in ("strict", "original"):
        result = score(text, mode=mode)  # type: ignore[arg-type]
        assert all(0 <= value <= 1 + 1e-9 for value in (*result.components.values(), result.total))
    assert math.isfinite(score(text, config=EVERYTHING).total)


def study_world(text: str) -> None:
    """What callbacks and reports do with a text."""
    json.dumps([issue.message for mode in ("strict", "original") for issue in score(text, mode=mode).issues])  # type: ignore[arg-type]
    unique_shares([text])
    quality = FeatureQuality()
    quality.update_encoder(lambda states: (states[:, :8], states), LAYOUT, 0)
    quality([written("", text, {})])
    encounter_spans(text)
    world = score(text, config=EVERYTHING).world
    if world is not None:
        play(world, np.random.default_rng(0))
        simulate(world, 2, 0)
        assert read_world(world.to_json())[0] is not None
        if world.encounters:
            str(draw_world(world, "a world"))


def judge_answer(text: str) -> None:
    rows = [columns("red_minus_blue"), columns("sum_above_20")]
    for row in rows:
        rollout = written("", text, row)
        for make in CARD_REWARDS.values():
            assert all(-1 <= value <= 1 for value in make(None)([rollout]))
    assert parse_answer(text, ["İG", "ıg", "ß", "SS", "ﬁ"]).answer in {None, "İG", "ıg", "ß", "SS", "ﬁ"}
    json.dumps(set_scores(judge_answers([text, text], rows), rows))


def judge_verse(text: str) -> None:
    rollout = written("The night\n", text, {"bag": ["night", "ſea"], "topic": next(iter(TOPICS))})
    for make in VERSE_REWARDS.values():
        assert all(-1 <= value <= 1 for value in make(TOPICS)([rollout]))
    majority_topic(text, TOPICS)
    content_share(text, ["night"])
    assert 0 <= distinct_n([text], 2) <= 1 and 0 <= repetition([text]) <= 1
    assert all(poem.lines for poem in find_poems(text))


KINDS: dict[str, tuple[Callable[[random.Random], str], Callable[[str], Any], int]] = {
    "worlds": (hostile_world, judge_world, 30_000),
    "worlds, studied": (hostile_world, study_world, 5_000),
    "answers": (hostile_text, judge_answer, 35_000),
    "verse": (hostile_text, judge_verse, 30_000),
}
"""A maker of texts, what is done with them, and how many of them the slow test makes."""


def fuzz(kind: str, count: int, seed: int) -> None:
    make, judge, _ = KINDS[kind]
    rng = random.Random(seed)
    for _ in range(40):
        judge(make(rng))  # what is imported or cached at the first texts is not their time
    for number in range(count):
        text = make(rng)
        start = time.thread_time()
        try:
            judge(text)
        except Exception as error:
            raise AssertionError(f"{kind}, text {number} of seed {seed}: {text[:2000]!r}") from error
        assert time.thread_time() - start < CONSTANT + PER_CHARACTER * len(text), (
            f"{kind}, text {number} of seed {seed}"
        )


@pytest.mark.parametrize("kind", list(KINDS))
def test_some_hostile_texts(kind: str) -> None:
    fuzz(kind, 150, seed=0)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", list(KINDS))
def test_a_hundred_thousand_hostile_texts(kind: str) -> None:
    fuzz(kind, KINDS[kind][2], seed=1)
