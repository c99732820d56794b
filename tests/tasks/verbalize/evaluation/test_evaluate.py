"""A whole evaluation: what is measured, that it is plain data, and that broken answers never raise."""

import json
from typing import Any

import pytest

from lit_narrative.report.intervals import figure_names
from lit_narrative.tasks.verbalize.evaluation.evaluate import FROZEN, Aids, AnswerSet, evaluate
from lit_narrative.tasks.verbalize.evaluation.readings import Pool
from lit_narrative.text import WordBits
from tests.tasks.verbalize.evaluation.world import documents, reconstruct, sentences

TRUTH = sentences(40, words=4)
OTHERS = sentences(100, seed=9, words=4)
CRITICS = {"": reconstruct, FROZEN: reconstruct}


def claims(text: str) -> set[str]:
    return {word for word in text.split() if word.startswith("word")}


AIDS = Aids("~", WordBits(OTHERS), Pool(reconstruct(OTHERS), OTHERS), claims, lambda text: text)


def answers(explanations: list[str | None]) -> AnswerSet:
    texts = [f"<explanation> {text} </explanation>" if text else "~ broken" for text in explanations]
    return AnswerSet(texts, explanations, reconstruct(TRUTH), documents(40), TRUTH, TRUTH)


def test_right_explanations() -> None:
    made = evaluate(answers([*TRUTH]), CRITICS, AIDS)
    for name in ("fve", "fve_frozen", "teacher", "fve_first_4", "fve_paraphrase", "claims_precision", "claims_recall"):
        assert made[name] == pytest.approx(1), name
    assert made["format"] == made["position_match"] == made["words_in_source"] == 1
    assert made["floor_constant"] < made["nearest_neighbour"] < 1
    assert made["length_drift"] == made["marker_talk"] == made["targets_repeated"] == 0
    assert made["rows"]["fve"] == pytest.approx([1] * 40) and len(made["rows"]["document"]) == 40


def test_record_is_plain_data_and_figures_have_intervals() -> None:
    made = evaluate(answers([*TRUTH[:-1], None]), CRITICS, AIDS)
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    for name in figure_names(made):
        assert made[f"{name}_ci"] is None or made[f"{name}_ci"][0] <= made[f"{name}_ci"][1]
    assert {"fve", "fve_frozen", "floor_constant", "teacher", "nearest_neighbour", "copied_bits"} <= {
        *figure_names(made)
    }


def test_answers_without_a_single_explanation() -> None:
    made = evaluate(answers([None] * 40), CRITICS, AIDS)
    assert made["format"] == 0 and made["marker_talk"] == 1 and made["position_match"] == 0
    assert made["claims_precision"] is None and made["claims_recall"] == 0
    assert made["fve"] < made["floor_constant"]
    json.dumps(made, allow_nan=False)


def test_without_critics_the_words_are_judged_alone() -> None:
    made = evaluate(answers([*TRUTH]), {}, AIDS)
    assert "fve" not in made and made["claims_precision"] == 1


@pytest.mark.parametrize("text", ["\x00\ud800", "word" * 10_000, "<explanation>", "～ ㈎ \u202e", " "])
def test_hostile_explanations(text: str) -> None:
    explanations: list[Any] = [text] * 40
    made = evaluate(answers(explanations), CRITICS, AIDS)
    json.dumps(made, allow_nan=False)


def test_controls_need_no_references() -> None:
    made = evaluate(answers([*TRUTH]), CRITICS, AIDS, references=False)
    assert "teacher" not in made and "fve" in made
