"""Dealing: sets of hands with their rules and sentences, the same wherever they are dealt.

Each set has a separate random stream, made from (seed, name of the set), so that the size of one changes no other.
Which hands may occur in training, validation or tests is decided by a digest of the cards alone: whatever the seed,
rule and sentence, no hand is in two of them. Outside training no rule meets a hand twice in a set: every answer counts
once.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from math import ceil
from random import Random
from typing import Literal

from lit_narrative.errors import UserError
from lit_narrative.tasks.cards.families import sentences_of
from lit_narrative.tasks.cards.game import CardGame, Pool
from lit_narrative.tasks.cards.rules import COLORS, Card, Rule

Bucket = Literal["train", "val", "test"]
MIXTURE = "mixture"
"""The set of prompts for reinforcement: several kinds by weight."""
_BUCKETS: dict[str, Bucket] = {"train": "train", "val": "val", MIXTURE: "train"}
_TRIES, _LENGTHS = 300, 60
"""Hands of a length to draw before another length is drawn, and lengths to draw before a set is given up."""


@dataclass(frozen=True, slots=True)
class Deal:
    """A hand with its rule and the sentence that states it.

    Attributes:
        rule: to apply.
        cards: in order.
        kind: the distribution that it is drawn from.
        sentence: states the rule.
        template_id: which sentence: ``canonical``, ``train_0``, ``test_1`` …
        set: where it belongs.
        index: its position there, from 0.
    """

    rule: Rule
    cards: tuple[Card, ...]
    kind: str
    sentence: str
    template_id: str
    set: str
    index: int

    @property
    def paraphrased(self) -> bool:
        """Whether the rule is reworded."""
        return self.template_id != "canonical"


def deal(game: CardGame, name: str, size: int, mix: Mapping[str, float] | None = None) -> list[Deal]:
    """The first ``size`` deals of a set; those of a larger one begin with them.

    Args:
        game: the settings.
        name: one of `SETS`, or another for a set of ``mix``.
        size: how many.
        mix: weights of kinds; None: the kind that the name says.

    Raises:
        UserError: a rule has nearly no hands that are asked for.
    """
    return list(islice(deals(game, name, mix), size))


def deals(
    game: CardGame, name: str, mix: Mapping[str, float] | None = None, bucket: Bucket | None = None
) -> Iterator[Deal]:
    """Deal without end; see `deal`. ``bucket`` is where hands come from, by default the one that the name says."""
    # The order of the draws below is part of the set: another one deals other hands under the same seed.
    rng = Random(f"{game.seed}/{name}")
    kinds = dict(mix or {kind_of(name): 1.0})
    bucket = bucket or _BUCKETS.get(name, "test")
    balance, index = _Balance(game.zero_share, repeats=bucket == "train"), 0
    while True:
        (kind,) = rng.choices(list(kinds), list(kinds.values()))
        rule = rng.choice(game.pool(kind))
        cards = _hand(rng, game, rule, kind, bucket, balance)
        # In a mixture the kind `paraphrase` has a share of its own; the other kinds have that of the set.
        share = game.paraphrase_share(kind if mix and kind == "paraphrase" else name)
        # Training never reads the sentences of tests. `paraphrase_mix` measures on those that the mixture trains on.
        pool: Pool = "train" if bucket != "test" or name == "paraphrase_mix" else "test"
        sentence, template = _sentence(rng, rule, share, pool)
        yield Deal(rule, cards, kind, sentence, template, name, index)
        index += 1


def draw_hand(rng: Random, rule: Rule, length: int, largest_value: int) -> tuple[Card, ...]:
    """Draw a hand: one slot for each colour that the rule names, all slots distinct; any colour in the others.

    Raises:
        UserError: there are fewer cards than colours to hold.
    """
    required = rule.required_colors
    if length < len(required):
        raise UserError(f"rule '{rule.name}' needs {len(required)} cards for {', '.join(required)}; got {length}")
    slots = dict(zip(rng.sample(range(length), len(required)), required, strict=True))
    return tuple(
        Card(slots[position] if position in slots else rng.choice(COLORS), rng.randint(0, largest_value))
        for position in range(length)
    )


def bucket_of(cards: Sequence[Card]) -> Bucket:
    """Where a hand may occur: 80 % of all hands in training, 10 % in validation, 10 % in tests."""
    # Python's hash() would differ between processes; the digest is the same on every rank and in every release.
    text = " ".join(f"{card.color} {card.value}" for card in cards)
    # The 256 values of a byte do not divide by ten: a tenth has 25 or 26 of them.
    tenth = blake2b(text.encode(), digest_size=8).digest()[0] * 10 // 256
    return "test" if tenth == 0 else "val" if tenth == 1 else "train"


class _Balance:
    """Keeps the answers of every rule from being mostly one and the same, and hands from coming twice."""

    def __init__(self, zero_share: float, repeats: bool) -> None:
        self.zero_share, self.repeats = zero_share, repeats
        self.dealt: Counter[str] = Counter()
        self.answers: Counter[tuple[str, str]] = Counter()
        self.hands: set[tuple[str, tuple[Card, ...]]] = set()

    def allows(self, rule: Rule, cards: tuple[Card, ...]) -> bool:
        """Whether one more such hand keeps the balance; holds after every deal, not on average."""
        if (rule.name, cards) in self.hands:
            return False
        answer = rule.answer(cards)
        count, total = self.answers[rule.name, answer] + 1, self.dealt[rule.name] + 1
        if rule.head is not None:
            # Rounded up, so that the first deal of a rule may have either label.
            return count <= ceil(total / 2)
        return answer != "0" or count <= self.zero_share * total

    def add(self, rule: Rule, cards: tuple[Card, ...]) -> None:
        """Count a deal."""
        self.dealt[rule.name] += 1
        self.answers[rule.name, rule.answer(cards)] += 1
        if not self.repeats:
            self.hands.add((rule.name, cards))


def _hand(rng: Random, game: CardGame, rule: Rule, kind: str, bucket: Bucket, balance: _Balance) -> tuple[Card, ...]:
    # Another length is tried where one is used up: sets without repeats run out of short hands.
    for _ in range(_LENGTHS):
        length = rng.randint(*game.hand_lengths(kind))
        for _ in range(_TRIES):
            cards = draw_hand(rng, rule, length, game.largest_value)
            if bucket_of(cards) == bucket and balance.allows(rule, cards):
                balance.add(rule, cards)
                return cards
    wanted = "both labels equally often" if rule.head else f"answers 0 in at most {game.zero_share:.0%}"
    fewest, most = game.hand_lengths(kind)
    raise UserError(
        f"rule '{rule.name}' finds no more hands of {fewest} to {most} cards of 0..{game.largest_value} for {bucket}, "
        f"with {wanted}; choose another threshold, more cards, a higher data.game.zero_share, or fewer rows"
    )


def _sentence(rng: Random, rule: Rule, share: float, pool: Pool) -> tuple[str, str]:
    """A sentence for the rule, reworded with probability ``share``, and the name of its template."""
    known = sentences_of(rule.name)
    if rng.random() >= share:
        return known.canonical, "canonical"
    sentences = known.train if pool == "train" else known.test
    number = rng.randrange(len(sentences))
    return sentences[number], f"{pool}_{number}"


def kind_of(name: str) -> str:
    """The kind of deals that a set is named after."""
    return {"train": "id", "val": "id", "id_test": "id", "paraphrase_mix": "paraphrase"}.get(name, name)
