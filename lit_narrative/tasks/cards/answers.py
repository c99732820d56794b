"""Answers: what a policy wrote after ``Answer:`` is read, judged and rewarded.

Only the generated text is read, and nothing here raises on it.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lit_narrative.views import Rollout

_MARK = re.compile(r";|answer\s*:", re.IGNORECASE)
# An integer that stands alone: not part of a word or a decimal, nor an end of a range such as 3-4. Nine digits at most:
# the game needs no more, and int() of a very long one is slow.
_NUMBER = re.compile(r"(?<![^\s:;,])[+-]?[0-9]{1,9}(?=$|[\s;,]|[.!?](?:\s|$))")
LONGEST = 10_000
"""Longest text that is read, in characters; a longer one has no answer."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """A completion taken apart.

    Attributes:
        answer: the answer in its one form: decimal digits with a leading minus, or the label; None if there is none.
        trace: the numbers of the scratchpad; empty without one.
    """

    answer: str | None
    trace: tuple[int, ...] = ()

    @property
    def valid(self) -> bool:
        """Whether there is an answer of the kind asked for."""
        return self.answer is not None


@dataclass(frozen=True, slots=True)
class Judgement:
    """A completion compared with the right answer.

    Attributes:
        answer: the answer in its one form; None if there is none.
        expected: the right answer.
        trace: the scratchpad's numbers.
        correct: whether the answer is right.
        process: share of running totals that are right, in 0..1; totals too many count as wrong.
        trace_exact: whether all are; None where no scratchpad was asked for.
        misfit: how many words too many or too few, over the words needed, in 0..1.
    """

    answer: str | None
    expected: str
    trace: tuple[int, ...]
    correct: bool
    process: float
    trace_exact: bool | None
    misfit: float

    @property
    def valid(self) -> bool:
        """Whether there is an answer of the kind asked for."""
        return self.answer is not None


def parse(text: str, labels: Sequence[str] | None = None) -> Parsed:
    """Find the answer: the first integer, or the first of the labels, after the last ``;`` or ``Answer:`` if any.

    Args:
        text: the completion alone, up to its end token.
        labels: to choose from, in any case; None: the answer is an integer in ASCII digits.
    """
    if len(text) > LONGEST:
        return Parsed(None)
    # The last mark counts: a policy may correct itself.
    marks = list(_MARK.finditer(text))
    tail = text[marks[-1].end() :] if marks else text
    trace = text[: marks[-1].start()] if marks and marks[-1].group() == ";" else ""
    numbers = tuple(int(number) for number in _NUMBER.findall(trace))
    if labels is not None:
        return Parsed(_first_label(tail, labels), numbers)
    match = _NUMBER.search(tail)
    return Parsed(str(int(match.group())) if match else None, numbers)  # int() makes "+3" and "03" one answer


def judge(text: str, columns: Mapping[str, Any]) -> Judgement:
    """Judge a completion of a prompt.

    Args:
        text: the completion alone.
        columns: of the prompt, as `lit_narrative.tasks.cards.prompts.example` makes them.
    """
    parsed = parse(text, columns["classification_labels"])
    expected, totals = str(columns["answer"]), columns["running_totals"]
    asked = columns["scratchpad"] == "running_total"
    right = sum(one == other for one, other in zip(parsed.trace, totals, strict=False))
    # The longer of the two: a total left out costs as much as one too many.
    longest = max(len(totals), len(parsed.trace))
    # The totals, the ";" and the answer.
    needed = len(totals) + 2 if asked else 1
    return Judgement(
        answer=parsed.answer,
        expected=expected,
        trace=parsed.trace,
        correct=parsed.answer == expected,
        process=right / longest if longest else 1.0,
        trace_exact=parsed.trace == tuple(totals) if asked else None,
        misfit=min(abs(len(text.split()) - needed) / needed, 1.0),
    )


def score(texts: Sequence[str], columns: Sequence[Mapping[str, Any]]) -> list[Judgement]:
    """Judge completions, each by the columns of its prompt."""
    return [judge(text, row) for text, row in zip(texts, columns, strict=True)]


def _first_label(text: str, labels: Sequence[str]) -> str | None:
    # Folded before the search: regardless of case, `re` takes "İ" for "i", and upper and lower case do not.
    folded = {label.casefold(): label for label in reversed(labels)}  # of two that differ in case the first counts
    # Longest first: a label may begin with another one.
    words = "|".join(map(re.escape, sorted(folded, key=len, reverse=True)))
    # A mark that combines with a letter ("İ" folds to "i" and one) makes another letter of it, and so another word.
    match = re.search(rf"(?<![\w-])(?:{words})(?![\w\u0300-\u036f-])", text.casefold())
    return folded[match.group()] if match else None


PARTS: dict[str, Callable[[Judgement], float]] = {
    "correct": lambda judgement: float(judgement.correct),
    "format": lambda judgement: float(judgement.valid),
    "process": lambda judgement: judgement.process,
    "length": lambda judgement: -judgement.misfit,
}
"""What can be rewarded: the right answer, any answer, the share of right running totals; and -1..0 for words too many
or too few, without which a policy in doubt learns to skip running totals and to guess."""


@dataclass(frozen=True)
class CardReward:
    """One part of the judgement as a reward.

    Args:
        name: one of `PARTS`.
    """

    name: str

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float]:
        """Score completions by the columns of their prompts."""
        part = PARTS[self.name]
        return [part(judge(rollout.text, rollout.columns)) for rollout in rollouts]


def _factory(name: str) -> Callable[[object], CardReward]:
    return lambda settings: CardReward(name)


REWARDS: Mapping[str, Callable[[object], CardReward]] = {name: _factory(name) for name in PARTS}
"""Makes each reward of the task; the settings of a run are not read, since the columns of a prompt say it all."""
