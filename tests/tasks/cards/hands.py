"""Small hands, rules and columns that several tests use."""

from collections.abc import Sequence
from typing import Any

from lit_narrative.tasks.cards.dealing import Deal
from lit_narrative.tasks.cards.families import find_rule, sentences_of
from lit_narrative.tasks.cards.game import Scratchpad
from lit_narrative.tasks.cards.prompts import example
from lit_narrative.tasks.cards.rules import Card

HAND = [Card("RED", 3), Card("BLUE", 5), Card("GREEN", 8), Card("RED", 4)]


def given(rule: str, cards: Sequence[Card] = HAND) -> Deal:
    """A hand under a rule in its usual words."""
    return Deal(find_rule(rule), tuple(cards), "id", sentences_of(rule).canonical, "canonical", "id_test", 0)


def columns(
    rule: str = "red_minus_blue", cards: Sequence[Card] = HAND, scratchpad: Scratchpad = "running_total"
) -> dict[str, Any]:
    """What judges an answer."""
    return dict(example(given(rule, cards), scratchpad, 0).meta)
