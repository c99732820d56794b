"""Completeness of a text: as long as was asked for, and brought to its end.

Two published curves are presets (arXiv 2512.05747 and the release before it); the default is a trapezoid, whose slopes
are finite everywhere.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from lit_narrative.errors import UserError, check_choice
from lit_narrative.text import words_of
from lit_narrative.views import Rollout

Curve = Literal["trapezoid", "twain_v1", "twain_v2"]
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
# The end of a sentence, with what may stand behind it.
_FINISHED = re.compile(r"[.!?…][\"'”’)\]*_]*$")


@dataclass(frozen=True)
class CompletenessSettings:
    """What counts as complete, in words.

    Args:
        curve: ``trapezoid``, or one of those published: ``twain_v1`` sqrt(min(1, words / 1400)) from 500 words on,
            ``twain_v2`` words / 1200 from 500 on, 1 in 1200..1600, then 1 - sqrt((words - 1600) / 1500).
        floor: of the trapezoid: words up to which a text is worth 0.
        full: words from which on it is worth 1.
        limit: words up to which it is.
        excess: words from which on it is worth 0 again.
        unfinished: factor on a text without its end, in 0..1: the last line asked for, or a finished sentence where
            none is asked for. ``twain_v1`` always looks for a sentence, and has 0.5; ``twain_v2`` has 0.

    Raises:
        UserError: the numbers are not in order, or a curve is given numbers that it does not read.
    """

    curve: Curve = "trapezoid"
    floor: int = 0
    full: int = 40
    limit: int = 100
    excess: int = 200
    unfinished: float = 0.0

    def __post_init__(self) -> None:
        check_choice("data.completeness.curve", self.curve, get_args(Curve))
        if not 0 <= self.floor < self.full <= self.limit < self.excess:
            raise UserError(
                f"data.completeness: floor={self.floor}, full={self.full}, limit={self.limit}, excess={self.excess} "
                "must be in order: 0 <= floor < full <= limit < excess"
            )
        if not 0 <= self.unfinished <= 1:
            raise UserError(f"data.completeness.unfinished={self.unfinished} must be in 0..1")
        if self.curve != "trapezoid" and replace(self, curve="trapezoid") != CompletenessSettings():
            raise UserError(f"data.completeness.curve={self.curve} has numbers of its own; leave the others out")


def trapezoid(words: int, settings: CompletenessSettings) -> float:
    """Worth of a length: from 0 at ``floor`` to 1 at ``full``, and from 1 at ``limit`` to 0 at ``excess``."""
    up = (words - settings.floor) / (settings.full - settings.floor)
    down = (settings.excess - words) / (settings.excess - settings.limit)
    return max(min(up, down, 1.0), 0.0)


def twain_v1(words: int) -> float:
    """Worth of a length by the first published curve."""
    return math.sqrt(min(1.0, words / 1400)) if words >= 500 else 0.0


def twain_v2(words: int) -> float:
    """Worth of a length by the second published curve, whose slope is infinite at 1600 words."""
    if words < 500:
        return 0.0
    return min(words / 1200, 1.0) if words <= 1600 else max(0.0, 1 - math.sqrt((words - 1600) / 1500))


def count_words(text: str) -> int:
    """Words and numbers of a text, without signs; a hyphen or an apostrophe inside does not part a word."""
    return sum(1 for _ in _WORD.finditer(text))


def last_line(text: str) -> str:
    """The last line that is not blank, without spaces around it."""
    return text.rstrip().rpartition("\n")[2].strip()


def ended(text: str, end: str) -> bool:
    """Whether the last line is the one asked for, and nothing else; its capitals and signs do not matter.

    Without one that is asked for, whether the last sentence is finished.
    """
    return words_of(last_line(text)) == words_of(end) if end else finished(text)


def finished(text: str) -> bool:
    """Whether the last line ends as a sentence does."""
    return bool(_FINISHED.search(last_line(text)[-20:]))


class Completeness:
    """A reward in 0..1: the worth of the length, less where the end is missing; column ``end`` is the last line.

    Args:
        settings: what counts as complete.
    """

    name = "completeness"

    def __init__(self, settings: CompletenessSettings = CompletenessSettings()) -> None:
        self.settings = settings

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float]:
        """Rewards, in order."""
        return [self.score(rollout.text, str(rollout.columns.get("end", ""))) for rollout in rollouts]

    def score(self, text: str, end: str = "") -> float:
        """The reward of one text; ``end`` is the line that is to end it."""
        words, curve = count_words(text), self.settings.curve
        if curve == "twain_v1":
            return twain_v1(words) * (1.0 if finished(text) else 0.5)
        worth = twain_v2(words) if curve == "twain_v2" else trapezoid(words, self.settings)
        return worth * (1.0 if ended(text, end) else self.settings.unfinished)
