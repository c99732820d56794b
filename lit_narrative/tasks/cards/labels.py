"""Labels of a hand under a rule, step by step: what probes look for."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from lit_narrative.tasks.cards.rules import COLORS, Card, Clause, Rule


@dataclass(frozen=True, slots=True)
class ClauseValue:
    """One clause on one hand.

    Attributes:
        description: the clause in words, weight included.
        aggregated: before the weight.
        weighted: what it adds to the total.
        matched: positions of the cards that count, from 0.
    """

    description: str
    aggregated: int
    weighted: int
    matched: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A hand under a rule.

    Attributes:
        total: of all clauses.
        label: by the head; None without one.
        answer: total or label, as text.
        contributions: what each card adds.
        running_totals: the total after each card.
        matched: for each card, whether any clause counts it.
        color_sums: sum of values by colour, all four of them.
        clauses: each clause's part.
    """

    total: int
    label: str | None
    answer: str
    contributions: tuple[int, ...]
    running_totals: tuple[int, ...]
    matched: tuple[bool, ...]
    color_sums: dict[str, int]
    clauses: tuple[ClauseValue, ...]


def evaluate(rule: Rule, cards: Sequence[Card]) -> Evaluation:
    """Evaluate a hand under a rule, card by card and clause by clause."""
    # Card by card: running totals are over cards, while clauses below are over the hand.
    contributions = tuple(map(rule.contribution, cards))
    total = sum(contributions)
    return Evaluation(
        total=total,
        label=rule.head(total) if rule.head else None,
        answer=rule.answer(cards),
        contributions=contributions,
        running_totals=tuple(accumulate(contributions)),
        matched=tuple(any(clause.matches(card) for clause in rule.clauses) for card in cards),
        # All four colours: a probe may find a sum that the rule ignores.
        color_sums={color: sum(card.value for card in cards if card.color == color) for color in COLORS},
        clauses=tuple(_clause_value(clause, cards) for clause in rule.clauses),
    )


def describe(clause: Clause) -> str:
    """A clause in words, such as ``-3 x count of RED or BLUE, even``."""
    words = " or ".join(clause.colors) if clause.colors else "any colour"
    if clause.predicate:
        threshold = "" if clause.predicate.threshold is None else f" {clause.predicate.threshold}"
        words += f", {clause.predicate.kind}{threshold}"
    return f"{clause.weight:+d} x {clause.aggregate} of {words}"


def intermediates(evaluation: Evaluation) -> dict[str, Any]:
    """The evaluation in the columns of an example: plain values that JSON can hold."""
    return {
        "total": evaluation.total,
        "classification": evaluation.label,
        "per_color_sums": evaluation.color_sums,
        "clause_contributions": [
            {
                "description": clause.description,
                "aggregated": clause.aggregated,
                "weighted_contribution": clause.weighted,
                "matched_indices": list(clause.matched),
            }
            for clause in evaluation.clauses
        ],
    }


def _clause_value(clause: Clause, cards: Sequence[Card]) -> ClauseValue:
    aggregated = sum(map(clause.aggregated, cards))
    matched = tuple(position for position, card in enumerate(cards) if clause.matches(card))
    return ClauseValue(describe(clause), aggregated, clause.weight * aggregated, matched)
