"""The causal test, with a subject that predicts by the vector alone and one that does not read it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from lit_narrative.report.intervals import Floats, Resamples
from lit_narrative.tasks.verbalize.evaluation.causal import Predict, causal_scores, divergence, edit_claims, exchange
from lit_narrative.tasks.verbalize.stories import SLOTS, claims

WORDS = [word for values in SLOTS.values() for word in values]
MATRIX = np.random.default_rng(0).normal(size=(len(WORDS), 64))
TEXTS = ["Ada market fox", "Boris castle", "Clara crow red", "no claim at all", "Elena lantern glad"] * 20
ORIGINALS = np.random.default_rng(1).normal(size=(len(TEXTS), 64)) * 5


def reconstruct(texts: Sequence[str]) -> np.ndarray:
    rows = [[WORDS.index(word) for word in text.split() if word in WORDS] for text in texts]
    return np.array([MATRIX[row].sum(0) for row in rows])


def log_softmax(logits: Floats) -> Floats:
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def predict(rows: Sequence[int], vectors: Floats | None) -> Floats:
    return log_softmax((ORIGINALS[list(rows)] if vectors is None else vectors) @ MATRIX.T / 64)


def scores(subject: Predict = predict, **other: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    edits = [edit_claims(text, rng) for text in TEXTS]
    token = other.pop("token", lambda word: WORDS.index(word))
    return causal_scores(
        Resamples([*map(str, range(len(TEXTS)))]), edits, TEXTS, ORIGINALS, reconstruct, subject, token, **other
    )


def test_an_edit_changes_one_claim_and_a_span_all_of_them() -> None:
    edit = edit_claims("The fox sat near Ada, and the fox slept", np.random.default_rng(0))
    assert edit is not None
    said = claims("The fox sat near Ada, and the fox slept")
    assert len(said - claims(edit.word)) == 1 and len(claims(edit.word)) == len(said)
    assert not said & claims(edit.span) and len(claims(edit.span)) == len(said)
    assert edit.old in ("fox", "Ada") and edit.new in edit.word and edit.new in edit.span
    assert edit_claims("nothing", np.random.default_rng(0)) is None


def test_whole_words_are_exchanged() -> None:
    assert exchange("red, predator red.", {"red": "blue"}) == "blue, predator blue."


def test_a_subject_that_reads_the_vector_follows_the_edit() -> None:
    made = scores()
    assert made["causal_n"] == 80
    assert made["causal_shift"] > 3 * abs(made["causal_shift_random"])
    assert made["causal_shift"] > 1 and made["causal_shift_span"] > 0
    assert made["causal_kl"] > 0 and made["causal_kl_unedited"] > 0
    assert all(f"{name}_ci" in made for name in ("causal_shift", "causal_kl", "causal_kl_unedited"))


def test_a_subject_that_does_not_does_not_move() -> None:
    made = scores(lambda rows, vectors: log_softmax(np.zeros((len(rows), len(WORDS)))))
    assert made["causal_shift"] == made["causal_kl"] == made["causal_kl_unedited"] == 0


def test_directions_take_the_norm_of_the_original() -> None:
    seen: list[Floats] = []

    def subject(rows: Sequence[int], vectors: Floats | None) -> Floats:
        seen.append(np.linalg.norm(vectors if vectors is not None else ORIGINALS[list(rows)], axis=1))
        return predict(rows, vectors)

    scores(subject)
    assert seen[1] == pytest.approx(seen[0]) and seen[2] == pytest.approx(seen[0])
    seen.clear()
    scores(subject, directions=False)
    assert seen[1] != pytest.approx(seen[0])


def test_words_that_the_subject_cannot_tell_apart_are_left_out() -> None:
    assert scores(token=lambda word: 0) == scores(token=lambda word: None) == {"causal_n": 0}


def test_divergence_by_hand() -> None:
    before, after = np.log([[0.5, 0.5]]), np.log([[0.25, 0.75]])
    assert divergence(before, after) == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(2 / 3))
