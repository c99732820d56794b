"""Rules by name, with the sentences that state each.

A name says all of its rule: ``red_minus_blue``, ``sum_greater_than_4``, ``red_greater_than_4``, ``sum_above_20``. Any
colour and any threshold will do, so that pools of rules are lists of names. The rewordings of a rule are of two sets
without a sentence in common: one that training may use, one that only tests use. Both recombine a small vocabulary.
The usual sentences of different shapes share few words, and the colours fill gaps in them: a model can learn to tell
rules apart without reading the colours, and measuring whether it did is what the game is for. A rewording keeps a word
or two of the usual sentence, so that a policy that explores has something to go by.
"""

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from lit_narrative.errors import UserError, did_you_mean
from lit_narrative.tasks.cards.rules import COLORS, Clause, Head, Predicate, Rule

Builder = Callable[[str, Mapping[str, str]], Rule]
LARGEST_THRESHOLD = 150
"""Of a name; larger numbers are not in the vocabulary."""


@dataclass(frozen=True, slots=True)
class Sentences:
    """The sentences that state a rule.

    Attributes:
        canonical: the usual one.
        train: rewordings that training may use.
        test: rewordings that only tests use.
    """

    canonical: str
    train: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Family:
    """Rules of one shape: a pattern of names, what a name means, and sentences to fill in.

    ``{a}`` and ``{b}`` stand for colours, ``{k}`` for a threshold.
    """

    shape: str
    build: Builder
    sentences: Sentences

    @property
    def pattern(self) -> re.Pattern[str]:
        """What its names look like."""
        color = "|".join(color.lower() for color in COLORS)
        # Colours are lower case in names and in capitals on cards; `_family` turns one into the other.
        return re.compile(self.shape.format(a=f"(?P<a>{color})", b=f"(?P<b>{color})", k="(?P<k>[0-9]{1,3})"))


def _difference(name: str, part: Mapping[str, str]) -> Rule:
    if part["a"] == part["b"]:
        raise UserError(f"rule '{name}' takes a colour from itself")
    return Rule(name, (Clause((part["a"],)), Clause((part["b"],), weight=-1)))


def _parity(first: Predicate, second: Predicate) -> Builder:
    return lambda name, part: Rule(name, (Clause(predicate=first), Clause(predicate=second, weight=-1)))


def _compared(kind: str) -> Builder:
    def build(name: str, part: Mapping[str, str]) -> Rule:
        colors = (part["a"],) if "a" in part else None
        return Rule(name, (Clause(colors, Predicate(kind, int(part["k"]))),))  # type: ignore[arg-type]

    return build


def _size(name: str, part: Mapping[str, str]) -> Rule:
    return Rule(name, (Clause(),), Head(int(part["k"])))


_ODD, _EVEN = Predicate("odd"), Predicate("even")

FAMILIES = (
    Family(
        "{a}_minus_{b}",
        _difference,
        Sentences(
            "total of all {a} cards minus total of all {b} cards",
            (
                "points of {a} minus points of {b}",
                "gain the {a} cards and lose the {b} cards",
                "{a} total up and {b} total down",
            ),
            ("gain points of {a} and lose points of {b}", "the {a} total minus the {b} total"),
        ),
    ),
    Family(
        "odd_minus_even",
        _parity(_ODD, _EVEN),
        Sentences(
            "sum odd numbers then subtract even numbers",
            (
                "points of odd minus points of even",
                "sum the odd then cut the even",
                "odd numbers up and even numbers down",
            ),
            ("gain points of odd and lose points of even", "the odd then cut the even"),
        ),
    ),
    Family(
        "even_minus_odd",
        _parity(_EVEN, _ODD),
        Sentences(
            "sum even numbers then subtract odd numbers",
            (
                "points of even minus points of odd",
                "sum the even then cut the odd",
                "even numbers up and odd numbers down",
            ),
            ("gain points of even and lose points of odd", "the even then cut the odd"),
        ),
    ),
    Family(
        "sum_greater_than_{k}",
        _compared("greater_than"),
        Sentences(
            "add every value greater than {k}",
            (
                "add what is over {k}",
                "every value over {k} counts",
                "values greater than {k} give the answer",
            ),
            ("add values over {k}", "what is greater than {k} counts"),
        ),
    ),
    Family(
        "sum_less_equal_{k}",
        _compared("less_equal"),
        Sentences(
            "add every value at most {k}",
            (
                "add what is up to {k}",
                "every value up to {k} counts",
                "values at most {k} give the answer",
            ),
            ("add values up to {k}", "what is at most {k} counts"),
        ),
    ),
    Family(
        "{a}_greater_than_{k}",
        _compared("greater_than"),
        Sentences(
            "add every {a} value greater than {k}",
            (
                "add what is {a} over {k}",
                "every {a} value over {k} counts",
                "{a} values greater than {k} give the answer",
            ),
            ("add {a} values over {k}", "what is {a} greater than {k} counts"),
        ),
    ),
    Family(
        "{a}_less_equal_{k}",
        _compared("less_equal"),
        Sentences(
            "add every {a} value at most {k}",
            (
                "add what is {a} up to {k}",
                "every {a} value up to {k} counts",
                "{a} values at most {k} give the answer",
            ),
            ("add {a} values up to {k}", "what is {a} at most {k} counts"),
        ),
    ),
    Family(
        "sum_above_{k}",
        _size,
        Sentences(
            "add all values and answer BIG above {k} and SMALL otherwise",
            (
                "add all and answer BIG over {k} and SMALL up to {k}",
                "answer SMALL for a total up to {k} and BIG otherwise",
                "BIG for a total above {k} and SMALL otherwise",
            ),
            (
                "answer BIG for a total over {k} and SMALL otherwise",
                "add all values and answer SMALL up to {k} and BIG above",
            ),
        ),
    ),
)


@functools.cache
def find_rule(name: str) -> Rule:
    """The rule of a name.

    Raises:
        UserError: no rule has that name; the message shows the shapes that names have.
    """
    family, part = _family(name)
    return family.build(name, part)


@functools.cache
def sentences_of(name: str) -> Sentences:
    """The sentences that state the rule of a name.

    Raises:
        UserError: no rule has that name.
    """
    family, part = _family(name)
    templates = family.sentences

    def fill(sentence: str) -> str:
        return sentence.format(**part)

    return Sentences(fill(templates.canonical), tuple(map(fill, templates.train)), tuple(map(fill, templates.test)))


def all_sentences() -> Iterator[str]:
    """Every sentence with every colour once; their words are the vocabulary of rules."""
    for family in FAMILIES:
        templates = family.sentences
        # The same colour in both gaps: only the words matter here.
        for color in COLORS:
            for sentence in (templates.canonical, *templates.train, *templates.test):
                yield sentence.format(a=color, b=color, k=0)


def _family(name: str) -> tuple[Family, dict[str, str]]:
    for family in FAMILIES:
        if match := family.pattern.fullmatch(name):
            part = {key: value.upper() for key, value in match.groupdict().items()}
            # One rule has one name: thresholds with a leading zero are refused.
            if str(int(part.get("k", 0))) != part.get("k", "0") or int(part.get("k", 0)) > LARGEST_THRESHOLD:
                break
            return family, part
    shapes = [family.shape for family in FAMILIES]
    examples = [shape.format(a="red", b="blue", k=4) for shape in shapes]
    raise UserError(
        f"there is no rule '{name}'{did_you_mean(name, examples)}; names are {', '.join(shapes)} "
        f"with colours {', '.join(COLORS).lower()} and a threshold in 0..{LARGEST_THRESHOLD}"
    )
