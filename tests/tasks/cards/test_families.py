"""Rules by name, and their sentences."""

import re

import pytest

from lit_narrative.errors import UserError
from lit_narrative.tasks.cards.families import FAMILIES, all_sentences, find_rule, sentences_of
from lit_narrative.tasks.cards.rules import Clause, Head, Predicate, Rule

NAMES = [family.shape.format(a="red", b="blue", k=4) for family in FAMILIES]


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("green_minus_yellow", (Clause(("GREEN",)), Clause(("YELLOW",), weight=-1))),
        ("sum_greater_than_12", (Clause(predicate=Predicate("greater_than", 12)),)),
        ("sum_less_equal_0", (Clause(predicate=Predicate("less_equal", 0)),)),
        ("odd_minus_even", (Clause(predicate=Predicate("odd")), Clause(predicate=Predicate("even"), weight=-1))),
        ("even_minus_odd", (Clause(predicate=Predicate("even")), Clause(predicate=Predicate("odd"), weight=-1))),
        ("red_greater_than_4", (Clause(("RED",), Predicate("greater_than", 4)),)),
        ("blue_less_equal_3", (Clause(("BLUE",), Predicate("less_equal", 3)),)),
    ],
)
def test_a_name_says_its_rule(name: str, rule: tuple[Clause, ...]) -> None:
    assert find_rule(name) == Rule(name, rule)


def test_a_classifier_has_no_filter_and_its_threshold_in_its_name() -> None:
    assert find_rule("sum_above_20") == Rule("sum_above_20", (Clause(),), Head(20))


def test_other_thresholds_are_other_rules() -> None:
    assert find_rule("red_greater_than_4") != find_rule("red_greater_than_5")


@pytest.mark.parametrize(
    "name",
    ["red_minus_red", "red_greater_than", "sum_above_007", "sum_above_151", "RED_minus_blue", "pink_minus_red", ""],
)
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(UserError):
        find_rule(name)


def test_a_near_name_is_suggested() -> None:
    with pytest.raises(UserError, match="no rule 'red_minus_bleu'; did you mean 'red_minus_blue'"):
        find_rule("red_minus_bleu")


@pytest.mark.parametrize("name", NAMES)
def test_sentences_are_many_disjoint_and_complete(name: str) -> None:
    assert len(sentences_of(name).train) >= 2
    assert len(sentences_of(name).test) >= 2
    sentences = _all(name)
    assert len(set(sentences)) == len(sentences)
    for sentence in sentences:
        assert "{" not in sentence
        for clause in find_rule(name).clauses:
            assert all(color in sentence for color in clause.colors or ())
            if clause.predicate and clause.predicate.threshold is not None:
                assert "4" in sentence.split()


def test_no_sentence_says_two_rules() -> None:
    sentences = [sentence for name in [*NAMES, "blue_minus_red"] for sentence in _all(name)]
    assert len(set(sentences)) == len(sentences)


def test_tests_use_no_word_that_training_lacks() -> None:
    known = [sentence for name in NAMES for sentence in (sentences_of(name).canonical, *sentences_of(name).train)]
    trained = {word for sentence in known for word in sentence.split()}
    assert {word for name in NAMES for sentence in sentences_of(name).test for word in sentence.split()} <= trained


def test_all_sentences_hold_every_word_but_numbers() -> None:
    known = {word for sentence in all_sentences() for word in sentence.split()}
    words = {word for name in NAMES for sentence in _all(name) for word in re.findall("[A-Za-z]+", sentence)}
    assert words <= known


def _all(name: str) -> list[str]:
    sentences = sentences_of(name)
    return [sentences.canonical, *sentences.train, *sentences.test]
