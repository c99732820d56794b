"""Scores of sets: by hand, and of policies whose scores are known."""

import pytest

from lit_narrative.report.intervals import share_interval
from lit_narrative.tasks.cards.answers import judge
from lit_narrative.tasks.cards.dealing import deal
from lit_narrative.tasks.cards.game import OOD_KINDS, TEST_SETS, CardGame
from lit_narrative.tasks.cards.prompts import example
from lit_narrative.tasks.cards.rules import Card
from lit_narrative.tasks.cards.scores import gaps, mean_gap, rule_substitution, set_scores
from lit_narrative.views import Example
from tests.tasks.cards.hands import columns

GAME = CardGame()


def rows(name: str, count: int = 200) -> list[Example]:
    return [example(row, GAME.scratchpad, 0) for row in deal(GAME, name, count)]


def test_an_oracle_is_always_right_and_has_no_gap() -> None:
    result = {}
    for name in TEST_SETS:
        sets = rows(name)
        scores = set_scores([judge(row.completion, row.meta) for row in sets], [row.meta for row in sets])
        keys = ("accuracy", "format_validity", "lift", "macro_accuracy", "trace_exact", "process")
        assert [scores[key] for key in keys] == [1.0] * 6, name
        result[name] = scores["accuracy"]
    assert set(gaps(result).values()) == {0}
    assert mean_gap(gaps(result)) == 0


@pytest.mark.parametrize("name", TEST_SETS)
@pytest.mark.parametrize("text", [" 0", " ; 0"])
def test_a_constant_has_no_lift(name: str, text: str) -> None:
    sets = rows(name)
    scores = set_scores([judge(text, row.meta) for row in sets], [row.meta for row in sets])
    assert scores["lift"] <= 0
    assert scores["accuracy_nonzero"] == 0
    assert scores["accuracy_zero"] in (1.0, None)
    assert scores["answered_zero"] == (0 if name == "classification" else 1)
    assert scores["trace_exact"] == 0


def test_the_majority_answer_has_no_lift_and_better_ones_have() -> None:
    hands = [[Card("RED", 5), Card("BLUE", value)] for value in (5, 5, 5, 4)]
    judged = [columns(cards=hand) for hand in hands]
    scores = set_scores([judge(" 0", row) for row in judged], judged)
    assert (scores["accuracy"], scores["majority"], scores["lift"]) == (0.75, 0.75, 0)
    assert (scores["accuracy_zero"], scores["accuracy_nonzero"], scores["macro_accuracy"]) == (1, 0, 0.5)
    better = set_scores([judge(f" {row['answer']}", row) for row in judged], judged)
    assert better["lift"] == 1


def test_scores_by_hand() -> None:
    judged = [columns(), columns("sum_above_20"), columns("odd_minus_even", [Card("RED", 1), Card("BLUE", 3)])]
    texts = [" 3 -2 -2 2 ; 2", " ; nothing", " 1 4 ; 5"]
    scores = set_scores([judge(text, row) for text, row in zip(texts, judged, strict=True)], judged)
    assert scores["n"] == 3
    assert scores["accuracy"] == pytest.approx(1 / 3)
    assert scores["format_validity"] == pytest.approx(2 / 3)
    assert scores["trace_exact"] == pytest.approx(2 / 3)
    assert scores["process"] == pytest.approx(2 / 3)
    assert scores["per_rule"]["odd_minus_even"] == {"n": 1, "accuracy": 0.0}
    assert scores["per_length"] == {"2": {"n": 1, "accuracy": 0.0}, "4": {"n": 2, "accuracy": 0.5}}
    assert scores["rule_substitution"] == {}


def test_nothing_scores_nothing() -> None:
    scores = set_scores([], [])
    assert scores["n"] == 0
    assert scores["accuracy"] is None and scores["accuracy_ci"] is None and scores["lift"] is None


def test_wilson_by_hand() -> None:
    """Wilson 1927: centre (p + z²/2n) / (1 + z²/n), here p = 0.9, n = 100, z = 1.96."""
    assert share_interval(0.9, 100) == pytest.approx((0.8256, 0.9448), abs=1e-4)
    low, high = share_interval(0.0, 10)
    assert low == 0 < high < 0.3


def test_the_answer_of_another_rule() -> None:
    hand = [Card("GREEN", 5), Card("YELLOW", 2), Card("RED", 7), Card("BLUE", 1)]
    judged = [columns("green_minus_yellow", hand)] * 3
    result = [(judge(text, row), row) for text, row in zip((" 6", " 3", " 9"), judged, strict=True)]
    assert rule_substitution(result, "red_minus_blue") == {"all": pytest.approx(1 / 3), "errors": 0.5}
    assert rule_substitution(result, "green_minus_yellow") == {"all": None, "errors": None}


def test_gaps_by_hand() -> None:
    result = gaps({"id_test": 0.9, "new_colors": 0.5, "paraphrase": 0.95, "paraphrase_mix": 0.1})
    assert result == pytest.approx({"new_colors": 0.4, "paraphrase": -0.05, "paraphrase_mix": 0.8})
    assert mean_gap(result) == pytest.approx(0.175)
    assert gaps({"new_colors": 0.5}) == {}
    assert mean_gap({}) is None
    assert set(OOD_KINDS) < set(TEST_SETS)
