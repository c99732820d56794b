"""Settings of the game: which rules, how many cards, and what each kind of set shifts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from lit_narrative.errors import UserError, check_choice, check_least
from lit_narrative.tasks.cards.families import find_rule
from lit_narrative.tasks.cards.rules import Rule

Kind = Literal["id", "new_colors", "compositional", "paraphrase", "length_shift", "classification"]
OOD_KINDS: tuple[Kind, ...] = ("new_colors", "compositional", "paraphrase", "length_shift", "classification")
"""Kinds out of distribution: by the colours' role, colour and value together, the words, the length, the answers."""
KINDS: tuple[Kind, ...] = ("id", *OOD_KINDS)
Scratchpad = Literal["none", "running_total"]
Pool = Literal["train", "test"]

TEST_SETS = ("id_test", *OOD_KINDS, "paraphrase_mix")
"""Sets to measure on: ``paraphrase`` has sentences that no training uses, ``paraphrase_mix`` those of the mixture."""
SETS = ("train", "val", *TEST_SETS)

_RULES: dict[str, tuple[str, ...]] = {
    "id": ("red_minus_blue", "sum_greater_than_4", "odd_minus_even"),
    "new_colors": ("green_minus_yellow",),
    "compositional": ("red_greater_than_4", "blue_less_equal_3"),
    "classification": ("sum_above_20",),
}


@dataclass(frozen=True)
class CardGame:
    """The game that is played. Every set is a fixed function of these settings and its name.

    Args:
        rules: names of rules by kind, in place of the usual ones: ``id``, ``new_colors``, ``compositional`` and
            ``classification``. ``paraphrase`` and ``length_shift`` have the rules of ``id``.
        lengths: fewest and most cards in a hand.
        long_lengths: the same in ``length_shift``, beyond ``lengths``.
        largest_value: of a card, in 0..99; the smallest is 0.
        scratchpad: what is written before the answer: nothing, or the running total after each card.
        zero_share: largest share of answers 0 for any one rule; labels come as often as each other.
        paraphrased: share of reworded prompts by set; 1 in ``paraphrase`` and ``paraphrase_mix``, 0 elsewhere unless
            given.
        seed: of the hands.

    Raises:
        UserError: a name is unknown, a rule is of two kinds, or a number is out of range.
    """

    rules: dict[str, list[str]] = field(default_factory=dict)
    lengths: tuple[int, int] = (3, 6)
    long_lengths: tuple[int, int] = (10, 15)
    largest_value: int = 9
    scratchpad: Scratchpad = "running_total"
    zero_share: float = 0.1
    paraphrased: dict[str, float] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        check_names("data.game.rules", self.rules, _RULES)
        check_names("data.game.paraphrased", self.paraphrased, SETS)
        self._check_numbers()
        # A rule of two kinds would be in distribution and out of it at once, and its accuracy would say nothing.
        owners: dict[str, str] = {}
        for kind in _RULES:
            for rule in self.pool(kind):
                if owners.setdefault(rule.name, kind) != kind:
                    raise UserError(f"data.game.rules: '{rule.name}' is in '{owners[rule.name]}' and in '{kind}'")
                if len(rule.required_colors) > self.lengths[0]:
                    raise UserError(
                        f"data.game.lengths: rule '{rule.name}' needs {len(rule.required_colors)} cards or more, for "
                        f"{', '.join(rule.required_colors)}; got {self.lengths[0]}"
                    )

    def _check_numbers(self) -> None:
        for name, (fewest, most) in (("lengths", self.lengths), ("long_lengths", self.long_lengths)):
            check_least(f"data.game.{name}", fewest, 1)
            if most < fewest:
                raise UserError(f"data.game.{name}: {fewest} to {most} cards is not a range")
        # Lengths in common would put part of the shifted set in distribution.
        if self.long_lengths[0] <= self.lengths[1]:
            raise UserError(
                f"data.game.long_lengths={list(self.long_lengths)} must lie beyond lengths={list(self.lengths)}"
            )
        if not 0 <= self.largest_value <= 99:
            raise UserError(f"data.game.largest_value={self.largest_value} must lie in 0..99")
        for name, share in (
            ("zero_share", self.zero_share),
            *((f"paraphrased.{k}", v) for k, v in self.paraphrased.items()),
        ):
            if not 0 <= share <= 1:
                raise UserError(f"data.game.{name}={share} must lie in 0..1")

    def pool(self, kind: str) -> tuple[Rule, ...]:
        """The rules of a kind.

        Raises:
            UserError: there are none, or one has no such name.
        """
        # Paraphrases and long hands are of the rules of `id`: they shift the words and the length alone.
        names = self.rules.get(key := kind if kind in _RULES else "id", list(_RULES[key]))
        if not names:
            raise UserError(f"data.game.rules.{key} is empty; name a rule")
        return tuple(map(find_rule, names))

    def paraphrase_share(self, name: str) -> float:
        """How much of a set is reworded."""
        return self.paraphrased.get(name, 1.0 if name.startswith("paraphrase") else 0.0)

    def hand_lengths(self, kind: str) -> tuple[int, int]:
        """Fewest and most cards in a hand of a kind."""
        return self.long_lengths if kind == "length_shift" else self.lengths


def check_names(
    setting: str, given: Mapping[str, object] | Sequence[str], known: Mapping[str, object] | Sequence[str]
) -> None:
    """Check that all names given are known.

    Raises:
        UserError: one is not; the message suggests the nearest.
    """
    for name in given:
        check_choice(setting, name, known)


def check_mixture(mix: Mapping[str, float], held_out: Sequence[str]) -> dict[str, float]:
    """The weights above 0 of a mixture of kinds.

    Args:
        mix: weight by kind.
        held_out: kinds that training must not see.

    Raises:
        UserError: a kind is unknown or held out, or no weight is above 0.
    """
    check_names("data.mix", mix, KINDS)
    check_names("data.held_out", held_out, KINDS)
    if min(mix.values(), default=0) < 0 or sum(mix.values()) <= 0:
        raise UserError(f"data.mix must hold weights of 0 or more, not all 0; got {dict(mix)}")
    for kind in held_out:
        if mix.get(kind, 0) > 0:
            raise UserError(
                f"data.mix gives '{kind}' a weight of {mix[kind]}, but data.held_out says that it is never trained on; "
                "take it out of one of them"
            )
    return {kind: weight for kind, weight in mix.items() if weight > 0}
