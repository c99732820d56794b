"""The algebra of rules, by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_narrative.errors import UserError
from lit_narrative.tasks.cards.labels import describe, evaluate, intermediates
from lit_narrative.tasks.cards.rules import COLORS, Card, Clause, Head, Predicate, Rule
from tests.tasks.cards.hands import HAND

CARDS = st.lists(st.builds(Card, st.sampled_from(COLORS), st.integers(0, 9)), max_size=8)
DIFFERENCE = Rule("difference", (Clause(("RED",)), Clause(("BLUE",), weight=-1)))


@pytest.mark.parametrize(
    ("predicate", "passing"),
    [
        (Predicate("greater_than", 4), {5, 6}),
        (Predicate("less_equal", 4), {0, 3, 4}),
        (Predicate("even"), {0, 4, 6}),
        (Predicate("odd"), {3, 5}),
    ],
)
def test_predicates_at_their_edges(predicate: Predicate, passing: set[int]) -> None:
    assert {value for value in (0, 3, 4, 5, 6) if predicate(value)} == passing


def test_clauses_add_up_card_by_card() -> None:
    result = evaluate(DIFFERENCE, HAND)
    assert result.contributions == (3, -5, 0, 4)
    assert result.running_totals == (3, -2, -2, 2)
    assert result.matched == (True, True, False, True)
    assert (result.total, result.answer, result.label) == (2, "2", None)
    assert result.color_sums == {"RED": 7, "BLUE": 5, "GREEN": 8, "YELLOW": 0}
    assert [clause.matched for clause in result.clauses] == [(0, 3), (1,)]
    assert [(clause.aggregated, clause.weighted) for clause in result.clauses] == [(7, 7), (5, -5)]


def test_a_card_counts_in_each_clause_that_it_matches() -> None:
    rule = Rule("twice", (Clause(("RED",)), Clause(predicate=Predicate("odd"), weight=-2, aggregate="count")))
    assert evaluate(rule, HAND).contributions == (3 - 2, -2, 0, 4)


def test_a_head_answers_by_a_strict_threshold() -> None:
    rule = Rule("size", (Clause(),), Head(20))
    assert rule.answer(HAND) == "SMALL"
    assert rule.answer([*HAND, Card("BLUE", 1)]) == "BIG"
    assert (rule.response_type, rule.labels) == ("classification", ("BIG", "SMALL"))
    assert evaluate(rule, HAND).label == "SMALL"


def test_an_empty_hand_is_worth_nothing() -> None:
    assert DIFFERENCE.answer([]) == "0"
    assert evaluate(DIFFERENCE, []).running_totals == ()


def test_required_colors_in_order_of_mention() -> None:
    rule = Rule("r", (Clause(("BLUE", "RED")), Clause(("RED", "GREEN")), Clause()))
    assert rule.required_colors == ("BLUE", "RED", "GREEN")
    assert rule.response_type == "numeric"
    assert rule.labels is None


def test_a_clause_says_its_weight() -> None:
    assert describe(Clause(("RED", "BLUE"), Predicate("even"), -3, "count")) == "-3 x count of RED or BLUE, even"
    assert describe(Clause(predicate=Predicate("greater_than", 4))) == "+1 x sum of any colour, greater_than 4"


def test_intermediates_are_plain_values() -> None:
    result = intermediates(evaluate(DIFFERENCE, HAND))
    assert result["total"] == 2
    assert result["classification"] is None
    assert result["clause_contributions"][1] == {
        "description": "-1 x sum of BLUE",
        "aggregated": 5,
        "weighted_contribution": -5,
        "matched_indices": [1],
    }


@given(CARDS)
def test_total_is_last_running_total_and_sum_of_clauses(cards: list[Card]) -> None:
    rule = Rule("r", (Clause(("RED", "BLUE"), Predicate("even"), 2), Clause(aggregate="count", weight=-3)))
    result = evaluate(rule, cards)
    assert result.total == sum(clause.weighted for clause in result.clauses) == rule.total(cards)
    assert result.running_totals[-1:] == ((result.total,) if cards else ())
    assert len(result.running_totals) == len(result.contributions) == len(result.matched) == len(cards)


def test_what_is_no_rule_is_refused() -> None:
    with pytest.raises(UserError, match="no clause"):
        Rule("nothing", ())
    with pytest.raises(UserError, match="no colour 'PINK'"):
        Clause(("PINK",))
    with pytest.raises(UserError, match="by sum or count; got 'mean'"):
        Clause(aggregate="mean")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"one of greater_than, .*got 'prime'"):
        Predicate("prime")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="'even' with threshold 4"):
        Predicate("even", 4)
    with pytest.raises(UserError, match="'less_equal' with threshold None"):
        Predicate("less_equal")
