"""Deals as text."""

import json

from lit_narrative.tasks.cards.prompts import completion_text, example, prompt_text
from lit_narrative.tasks.cards.rules import Card
from tests.tasks.cards.hands import HAND, given


def test_the_layout() -> None:
    row = example(given("red_minus_blue", [Card("RED", 3), Card("BLUE", 9)]), "running_total", 0)
    assert row.prompt == "Rule: total of all RED cards minus total of all BLUE cards\nCards:\nRED 3\nBLUE 9\n\nAnswer:"
    assert row.completion == " 3 -6 ; -6"


def test_without_scratchpad_the_answer_stands_alone() -> None:
    assert example(given("red_minus_blue"), "none", 0).completion == " 2"
    assert completion_text("BIG", [], "running_total") == " ; BIG"


def test_an_empty_hand_leaves_its_lines_empty() -> None:
    assert prompt_text("r", []) == "Rule: r\nCards:\n\n\nAnswer:"


def test_labels_follow_running_totals() -> None:
    row = example(given("sum_above_20"), "running_total", 0)
    assert row.completion == " 3 8 16 20 ; SMALL"
    assert row.meta["classification_labels"] == ["BIG", "SMALL"]
    assert row.meta["intermediates"]["classification"] == "SMALL"


def test_everything_known_of_a_hand_is_in_its_columns_and_plain() -> None:
    meta = example(given("red_minus_blue"), "running_total", 7).meta
    assert json.loads(json.dumps(meta)) == meta
    assert meta["cards"][1] == {"color": "BLUE", "value": 5}
    assert meta["contributions"] == [3, -5, 0, 4]
    assert meta["running_totals"] == [3, -2, -2, 2]
    assert meta["matched"] == [True, True, False, True]
    assert meta["answer"] == "2"
    assert (meta["rule_name"], meta["template_id"], meta["paraphrased"]) == ("red_minus_blue", "canonical", False)
    assert (meta["split"], meta["kind"], meta["seed"], meta["index"]) == ("id_test", "id", 7, 0)
    assert meta["intermediates"]["per_color_sums"] == {"RED": 7, "BLUE": 5, "GREEN": 8, "YELLOW": 0}
    assert len(meta["cards"]) == len(HAND)
