"""Text of a deal: the prompt, the completion to imitate, and the columns that judge an answer."""

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


def prompt_text(sentence: str, cards: Sequence[Card]) -> str:
    """The prompt; it ends with ``Answer:``, no space after it."""
    hand = "\n".join(f"{card.color} {card.value}" for card in cards)
    # No space after "Answer:": the completion begins with one, which tokenizers join to the first word.
    return "\n".join([f"Rule: {sentence}", "Cards:", hand, "", "Answer:"])


def completion_text(answer: str, running_totals: Sequence[int], scratchpad: Scratchpad) -> str:
    """What follows the prompt: a space and the answer, after the running totals and ``;`` if they are asked for."""
    if scratchpad == "none":
        return f" {answer}"
    return "".join(f" {total}" for total in running_totals) + f" ; {answer}"


def example(deal: Deal, scratchpad: Scratchpad, seed: int) -> Example:
    """An example of a deal; its ``meta`` holds everything known of the hand, as plain values.

    Args:
        deal: hand, rule and sentence.
        scratchpad: what the completion writes before the answer.
        seed: of the game, for the record.
    """
    evaluation = evaluate(deal.rule, deal.cards)
    meta: dict[str, Any] = {
        "rule_name": deal.rule.name,
        "rule_text": deal.sentence,
        "cards": [{"color": card.color, "value": card.value} for card in deal.cards],
        "answer": evaluation.answer,
        "response_type": deal.rule.response_type,
        "classification_labels": None if deal.rule.labels is None else list(deal.rule.labels),
        "paraphrased": deal.paraphrased,
        "template_id": deal.template_id,
        "kind": deal.kind,
        "split": deal.set,
        "seed": seed,
        "index": deal.index,
        "scratchpad": scratchpad,
        "running_totals": list(evaluation.running_totals),
        "contributions": list(evaluation.contributions),
        "matched": list(evaluation.matched),
        "intermediates": intermediates(evaluation),
    }
    completion = completion_text(evaluation.answer, evaluation.running_totals, scratchpad)
    return Example(prompt_text(deal.sentence, deal.cards), completion, meta)


def vocabulary_texts(game: CardGame) -> Iterator[str]:
    """Texts that hold every word of the game; a word-level tokenizer trained on them knows any pool of rules."""
    # Running totals may reach this far in a long hand of one colour.
    most = max(LARGEST_NUMBER, game.largest_value * game.long_lengths[1])
    yield "".join(f" {number}" for number in range(-most, most + 1))
    hand = [Card(color, 0) for color in COLORS]
    # Whole prompts: their line ends, colons and semicolons are part of the vocabulary too.
    for sentence in all_sentences():
        yield prompt_text(sentence, hand) + completion_text("0", [0], "running_total")
    for label in Head(0).labels:
        yield completion_text(label, [], "none")
    yield WRONG + MISSING
