"""The algebra of rules: the value of a hand, card by card.

A rule is a sum of clauses; a clause takes the cards of some colours whose value passes a test, and adds their values or
their number, times a weight. A card may count in several clauses. With a head, the answer is a label: which side of a
threshold the total is on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from lit_narrative.errors import UserError

Color = Literal["RED", "BLUE", "GREEN", "YELLOW"]
COLORS: tuple[Color, ...] = get_args(Color)
PredicateKind = Literal["greater_than", "less_equal", "even", "odd"]


class Card(NamedTuple):
    """One card."""

    color: str
    value: int


@dataclass(frozen=True, slots=True)
class Predicate:
    """A test of a card's value.

    Attributes:
        kind: ``greater_than`` (strictly), ``less_equal``, ``even`` (0 is even) or ``odd``.
        threshold: of the first two; the others have none.
    """

    kind: PredicateKind
    threshold: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(PredicateKind):
            raise UserError(f"a predicate is one of {', '.join(get_args(PredicateKind))}; got '{self.kind}'")
        # Refused both ways: a comparison without a threshold, and a parity with one.
        if (self.threshold is None) == (self.kind in ("greater_than", "less_equal")):
            raise UserError(f"predicate '{self.kind}' with threshold {self.threshold}: give one to comparisons only")

    def __call__(self, value: int) -> bool:
        """Whether the value passes."""
        if self.threshold is None:
            # The remainder is 1 for odd values, and True equals 1.
            return value % 2 == (self.kind == "odd")
        return value > self.threshold if self.kind == "greater_than" else value <= self.threshold


@dataclass(frozen=True, slots=True)
class Clause:
    """A weighted sum over the cards that match.

    Attributes:
        colors: any of these; None: whatever the colour.
        predicate: of the value; None: whatever the value.
        weight: what the aggregate is multiplied by.
        aggregate: ``sum`` of the values, or ``count`` of the cards.
    """

    colors: tuple[str, ...] | None = None
    predicate: Predicate | None = None
    weight: int = 1
    aggregate: Literal["sum", "count"] = "sum"

    def __post_init__(self) -> None:
        if self.aggregate not in ("sum", "count"):
            raise UserError(f"a clause aggregates by sum or count; got '{self.aggregate}'")
        if unknown := [color for color in self.colors or () if color not in COLORS]:
            raise UserError(f"there is no colour '{unknown[0]}'; there are {', '.join(COLORS)}")

    def matches(self, card: Card) -> bool:
        """Whether the card counts."""
        return (self.colors is None or card.color in self.colors) and (
            self.predicate is None or self.predicate(card.value)
        )

    def aggregated(self, card: Card) -> int:
        """What one card adds, before the weight; 0 if it does not count."""
        return (card.value if self.aggregate == "sum" else 1) if self.matches(card) else 0


@dataclass(frozen=True, slots=True)
class Head:
    """Turns a total into a label: ``above`` if it exceeds the threshold, else ``below``."""

    threshold: int
    above: str = "BIG"
    below: str = "SMALL"

    def __call__(self, total: int) -> str:
        """The label of a total."""
        return self.above if total > self.threshold else self.below

    @property
    def labels(self) -> tuple[str, str]:
        """Both labels, the upper one first."""
        return self.above, self.below


@dataclass(frozen=True, slots=True)
class Rule:
    """A named rule; see the module's text.

    Attributes:
        name: says all of it, thresholds included.
        clauses: one or more.
        head: for a label in place of the total.
    """

    name: str
    clauses: tuple[Clause, ...]
    head: Head | None = None

    def __post_init__(self) -> None:
        if not self.clauses:
            raise UserError(f"rule '{self.name}' has no clause")

    @property
    def response_type(self) -> Literal["numeric", "classification"]:
        """What an answer is: a total, or a label."""
        return "numeric" if self.head is None else "classification"

    @property
    def labels(self) -> tuple[str, str] | None:
        """The labels to choose from; None where the answer is a number."""
        return None if self.head is None else self.head.labels

    @property
    def required_colors(self) -> tuple[str, ...]:
        """The colours that clauses name, in order of first mention; a hand must hold each."""
        # A dict keeps the order of first mention, a set would not; hands are dealt by it.
        return tuple(dict.fromkeys(color for clause in self.clauses for color in clause.colors or ()))

    def contribution(self, card: Card) -> int:
        """What one card adds to the total, over all clauses."""
        return sum(clause.weight * clause.aggregated(card) for clause in self.clauses)

    def total(self, cards: Sequence[Card]) -> int:
        """What a hand is worth; 0 for an empty one."""
        return sum(map(self.contribution, cards))

    def answer(self, cards: Sequence[Card]) -> str:
        """The right answer as text: the total in decimal digits with a leading minus, or the label."""
        total = self.total(cards)
        return str(total) if self.head is None else self.head(total)
