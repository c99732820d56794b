"""Examinations of judges: those that know style, those that know topics, and those that know nothing."""

import json
from typing import Any

import numpy as np
import pytest

from lit_narrative.tasks.style.baselines import function_word_cosine
from lit_narrative.tasks.style.examination import HeldOut, examine
from lit_narrative.views import Pair

AUTHORS = {"Plain": "the and he had in to but so", "Ornate": "that whilst she might upon within though thus"}
THINGS = {"Plain": "boat harbour sailor", "Ornate": "castle banner knight"}


def text(author: str, rng: np.random.Generator) -> str:
    words = [*rng.choice(AUTHORS[author].split(), 20), *rng.choice(THINGS[author].split(), 10)]
    return " ".join(rng.permutation(words)) + "."


def pairs(count: int = 200, books: int = 6) -> list[Pair]:
    rng, found = np.random.default_rng(0), []
    for _ in range(count):
        one, two = (str(name) for name in rng.choice(list(AUTHORS), 2))
        titles = [f"{name} {rng.integers(books)}" for name in (one, two)]
        meta = {"author": one, "author2": two, "title": titles[0], "title2": titles[1]}
        found.append(Pair(text(one, rng), text(two, rng), float(one == two), meta))
    return found


def held(rows: list[Pair] | None = None) -> HeldOut:
    rows = pairs() if rows is None else rows
    return HeldOut(rows, rows)


def by_topic(texts: Any, others: Any) -> Any:
    """Knows the authors by their things."""
    boats = [["boat" in text or "sailor" in text for text in side] for side in (texts, others)]
    return np.array(boats[0]) == np.array(boats[1])


def by_style(texts: Any, others: Any) -> Any:
    """Knows the authors by a word of theirs."""
    found = [[" and " in text or "the " in text for text in side] for side in (texts, others)]
    return 0.6 * (np.array(found[0]) == np.array(found[1])) + 0.4 * function_word_cosine(texts, others)


def test_a_judge_of_style_is_fit() -> None:
    found = examine(by_style, {"books": held()}, [pair.text for pair in pairs()])
    assert found.fit, found.why
    figures = found.sets["books"]
    assert figures["judge"]["auroc"] > 0.9
    assert figures["judge"]["auroc"] == pytest.approx(figures["judge"]["auroc_masked"], abs=0.02)
    low, high = figures["judge"]["auroc_masked_ci"]
    assert low <= figures["judge"]["auroc_masked"] <= high
    assert figures["documents"] == 12
    assert figures["delta"]["judge_above"] == pytest.approx(figures["judge"]["auroc"] - figures["delta"]["auroc"])
    assert json.loads(json.dumps(found.record()))["fit"] is True
    assert figures["judge"]["spearman"] > 0.8


def test_a_judge_of_topics_is_not() -> None:
    found = examine(by_topic, {"books": held()}, [pair.text for pair in pairs()])
    assert found.sets["books"]["judge"]["auroc"] > 0.9
    assert found.sets["books"]["judge"]["auroc_masked"] == 0.5
    assert not found.fit
    assert any("chance" in reason for reason in found.why)
    assert any("function words" in reason for reason in found.why)


def test_nothing_known_is_not_fit() -> None:
    assert not examine(by_style, {}, ["a"]).fit
    one_kind = [pair for pair in pairs() if pair.score == 1]
    assert not examine(by_style, {"books": held(one_kind)}, ["a text"]).fit
    assert not examine(by_style, {"books": HeldOut((), ())}, ["a text"]).fit
    broken = examine(lambda texts, others: np.full(len(texts), np.nan), {"books": held()}, ["a text"])
    assert not broken.fit


def unsure(texts: Any, others: Any) -> Any:
    """Knows the authors most of the time."""
    return by_style(texts, others) + np.random.default_rng(0).normal(0, 0.3, len(texts))


def test_of_few_books_chunks_are_resampled() -> None:
    found = examine(unsure, {"books": held(pairs(books=1))}, [pair.text for pair in pairs()])
    assert any("only 2 books" in note for note in found.why)
    low, high = found.sets["books"]["judge"]["auroc_ci"]
    assert low < high


def test_unknown_authors_are_noted_where_they_do_not_decide() -> None:
    training = [pair.text for pair in pairs()]
    only_noted = {"authors": HeldOut(pairs(), pairs(), decides=False)}
    noisy = np.random.default_rng(0)
    almost = examine(lambda t, o: by_style(t, o) + noisy.normal(0, 0.5, len(t)), only_noted, training)
    assert almost.fit
    assert any("is above it" in note for note in almost.why)
