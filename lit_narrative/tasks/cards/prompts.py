"""A deal as text: the prompt, the completion to imitate, and the columns that judge an answer."""

from collections.abc import Iterator, Sequence
from typing import Any

from lit_narrative.tasks.cards.dealing import Deal
from lit_narrative.tasks.cards.families import all_sentences
from lit_narrative.tasks.cards.game import CardGame, Scratchpad
from lit_narrative.tasks.cards.labels import evaluate, intermediates
from lit_narrative.tasks.cards.rules import COLORS, Card, Head
from lit_narrative.views import Example

WRONG = "\nWrong answer: try again\nAnswer:"
"""What the verifier says to an answer that is not right."""
MISSING = "\nNo answer: try again\nAnswer:"
"""What it says where it finds none."""
LARGEST_NUMBER = 150
"""Every integer up to it, of either sign, is in the vocabulary, whatever is dealt; larger ones if hands need them."""


def prompt_text(wording: str, cards: Sequence[Card]) -> str:
    """The prompt; it ends with ``Answer:``, no space after it."""
    hand = "\n".join(f"{card.color} {card.value}" for card in cards)
    return "\n".join([f"Rule: {wording}", "Cards:", hand, "", "Answer:"])


def completion_text(answer: str, running_totals: Sequence[int], scratchpad: Scratchpad) -> str:
    """What follows the prompt: a space and the answer, after the running totals and ``;`` if they are asked for."""
    if scratchpad == "none":
        return f" {answer}"
    return "".join(f" {total}" for total in running_totals) + f" ; {answer}"


def example(deal: Deal, scratchpad: Scratchpad, seed: int) -> Example:
    """A deal to imitate; its ``meta`` holds everything there is to know of it, as plain values.

    Args:
        deal: hand, rule and wording.
        scratchpad: what the completion writes before the answer.
        seed: of the game, for the record.
    """
    found = evaluate(deal.rule, deal.cards)
    meta: dict[str, Any] = {
        "rule_name": deal.rule.name,
        "rule_text": deal.wording,
        "cards": [{"color": card.color, "value": card.value} for card in deal.cards],
        "answer": found.answer,
        "response_type": deal.rule.response_type,
        "classification_labels": None if deal.rule.labels is None else list(deal.rule.labels),
        "paraphrased": deal.paraphrased,
        "template_id": deal.template_id,
        "kind": deal.kind,
        "split": deal.set,
        "seed": seed,
        "index": deal.index,
        "scratchpad": scratchpad,
        "running_totals": list(found.running_totals),
        "contributions": list(found.contributions),
        "matched": list(found.matched),
        "intermediates": intermediates(found),
    }
    completion = completion_text(found.answer, found.running_totals, scratchpad)
    return Example(prompt_text(deal.wording, deal.cards), completion, meta)


def vocabulary_texts(game: CardGame) -> Iterator[str]:
    """Texts that hold every word of the game; a word-level tokenizer trained on them knows any pool of rules."""
    most = max(LARGEST_NUMBER, game.largest_value * game.long_lengths[1])
    yield "".join(f" {number}" for number in range(-most, most + 1))
    hand = [Card(color, 0) for color in COLORS]
    for sentence in all_sentences():
        yield prompt_text(sentence, hand) + completion_text("0", [0], "running_total")
    for label in Head(0).labels:
        yield completion_text(label, [], "none")
    yield WRONG + MISSING
