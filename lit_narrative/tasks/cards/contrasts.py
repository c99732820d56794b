"""Inputs of circuit analysis: contrast pairs, and examples with named spans and targets to probe for.

A pair is two prompts that differ in one card's value or colour, or in the rule, with as many words on both sides. Where
running totals are written, both prompts are continued by those that the two completions share. The pair is then about
the next total: the first that the difference changes.
"""

from collections.abc import Iterable, Iterator, Sequence
from random import Random
from typing import Any

from lit_narrative.tasks.cards.dealing import Deal, bucket_of
from lit_narrative.tasks.cards.families import sentences_of
from lit_narrative.tasks.cards.game import KINDS, CardGame
from lit_narrative.tasks.cards.labels import evaluate
from lit_narrative.tasks.cards.prompts import completion_text, example, prompt_text
from lit_narrative.tasks.cards.rules import COLORS, Card, Rule
from lit_narrative.views import ContrastPair, Example, plain_prompt

Span = tuple[int, int]
Change = tuple[str, Rule, str, tuple[Card, ...], int | None]
"""What is changed (value, color or rule), the rule, its sentence, the cards, and the position of the changed card."""


def contrast_pairs(dealt: Iterable[Deal], game: CardGame) -> Iterator[ContrastPair]:
    """A pair for each deal that has one: in turn about a value, a colour and the rule, where there is such a pair.

    The hand of the corrupt prompt is of the same bucket as the clean one's, so that tests hold no hand of training.

    Args:
        dealt: the clean prompts.
        game: its other rules and its scratchpad; its seed says which pair is drawn.
    """
    for turn, deal in enumerate(dealt):
        # A stream for each deal, so that a pair does not depend on what was drawn for the deals before.
        rng = Random(f"{game.seed}/contrasts/{deal.set}/{deal.index}")
        kinds = ("value", "color", "rule")
        for shift in range(len(kinds)):
            kind = kinds[(turn + shift) % len(kinds)]
            changes = _rules(deal, game) if kind == "rule" else list(_cards(deal, game, kind))
            rng.shuffle(changes)
            # The first change that alters a written word; pairs further on are never built.
            pair = next(filter(None, (_pair(deal, change, game) for change in changes)), None)
            if pair is not None:
                yield pair
                break


def question(deal: Deal, game: CardGame) -> Example:
    """The example of a deal for circuit analysis.

    Its ``meta`` also holds ``spans``, stretches of the text by name; ``targets``, to probe for: numbers (``total``,
    ``sum_red`` …, ``running_total_1`` …, ``contribution_1`` …) and classes (``rule``, ``kind``, ``paraphrased``,
    ``matched_1`` …); and ``patterns``, what a feature may fire on: each card.
    """
    row, evaluation = example(deal, game.scratchpad, game.seed), evaluate(deal.rule, deal.cards)
    targets: dict[str, float | str] = {"rule": deal.rule.name, "kind": deal.kind, "total": float(evaluation.total)}
    targets["paraphrased"] = "yes" if deal.paraphrased else "no"
    targets |= {f"sum_{color.lower()}": float(value) for color, value in evaluation.color_sums.items()}
    if evaluation.label is not None:
        targets["label"] = evaluation.label
    for position, (added, total, matched) in enumerate(
        zip(evaluation.contributions, evaluation.running_totals, evaluation.matched, strict=True), 1
    ):
        targets[f"contribution_{position}"], targets[f"running_total_{position}"] = float(added), float(total)
        targets[f"matched_{position}"] = "yes" if matched else "no"
    named = spans(deal)
    patterns = [
        ("card", f"{card.color} {card.value}", (named[f"card{position}_color"][0], named[f"card{position}_value"][1]))
        for position, card in enumerate(deal.cards, 1)
    ]
    named |= _written(plain_prompt(row.prompt), evaluation.running_totals) if game.scratchpad == "running_total" else {}
    return Example(row.prompt, row.completion, {**row.meta, "spans": named, "targets": targets, "patterns": patterns})


def _written(prompt: str, totals: Sequence[int]) -> dict[str, Span]:
    """``gen1`` …: what each running total is written after, in characters of prompt and completion together."""
    named, start = {"gen1": (len(prompt) - 1, len(prompt))}, len(prompt)
    for position, total in enumerate(totals[:-1], 2):
        end = start + len(f" {total}")
        named[f"gen{position}"], start = (start + 1, end), end
    return named


def spans(deal: Deal) -> dict[str, Span]:
    """Where in the prompt the rule and the cards are: ``rule_end``, ``card1_color``, ``card1_value`` and so on."""
    # Mirrors `prompt_text`, character by character.
    end = len("Rule: ") + len(deal.sentence)
    named = {"rule_end": (end - len(deal.sentence.split()[-1]), end)}
    start = end + len("\nCards:\n")
    for position, card in enumerate(deal.cards, 1):
        middle = start + len(card.color)
        end = middle + 1 + len(str(card.value))
        named |= {f"card{position}_color": (start, middle), f"card{position}_value": (middle + 1, end)}
        start = end + 1
    return named


def _cards(deal: Deal, game: CardGame, kind: str) -> Iterator[Change]:
    """Every other value or colour of every card that leaves the hand in its bucket."""
    bucket, required = bucket_of(deal.cards), set(deal.rule.required_colors)
    for position, card in enumerate(deal.cards):
        values = [Card(card.color, value) for value in range(game.largest_value + 1)]
        for other in values if kind == "value" else [Card(color, card.value) for color in COLORS]:
            cards = (*deal.cards[:position], other, *deal.cards[position + 1 :])
            # A hand without a colour that the rule names would not be dealt at all.
            if other != card and bucket_of(cards) == bucket and required <= {each.color for each in cards}:
                yield kind, deal.rule, deal.sentence, cards, position


def _rules(deal: Deal, game: CardGame) -> list[Change]:
    """The game's other rules whose sentence in the same template has as many words."""
    known = {rule.name: rule for kind in KINDS for rule in game.pool(kind)}
    sentences = {name: _in_template(name, deal.template_id) for name in known if name != deal.rule.name}
    return [
        ("rule", known[name], sentence, deal.cards, None)
        for name, sentence in sentences.items()
        # The prompts of a pair need one length in tokens; the game's tokenizer makes a token of each word.
        if sentence is not None and len(sentence.split()) == len(deal.sentence.split())
    ]


def _in_template(name: str, template: str) -> str | None:
    """The sentence of a rule in a template; None where it has no such template."""
    known, (pool, _, number) = sentences_of(name), template.partition("_")
    sentences = {"canonical": (known.canonical,), "train": known.train, "test": known.test}[pool]
    index = int(number or 0)
    return sentences[index] if index < len(sentences) else None


def _pair(deal: Deal, change: Change, game: CardGame) -> ContrastPair | None:
    """The pair of a change; None where it changes nothing that is written."""
    kind, rule, sentence, cards, position = change
    left, right = _words(deal.rule, deal.cards, game), _words(rule, cards, game)
    # The first word in which the two completions differ is what the pair is about.
    shared = next((n for n, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), None)
    if shared is None:
        return None
    begun = "".join(left[:shared])
    named = spans(deal)
    named["changed"] = named["rule_end"] if position is None else named[f"card{position + 1}_{kind}"]
    meta: dict[str, Any] = {"contrast": kind, "rule_name": deal.rule.name, "corrupt_rule_name": rule.name}
    meta |= {"kind": deal.kind, "split": deal.set, "index": deal.index, "written": shared, "spans": named}
    clean, corrupt = prompt_text(deal.sentence, deal.cards) + begun, prompt_text(sentence, cards) + begun
    return ContrastPair(clean, corrupt, left[shared], right[shared], meta)


def _words(rule: Rule, cards: tuple[Card, ...], game: CardGame) -> list[str]:
    evaluation = evaluate(rule, cards)
    completion = completion_text(evaluation.answer, evaluation.running_totals, game.scratchpad)
    # With the space in front, which belongs to the word's token.
    return [f" {word}" for word in completion.split()]
