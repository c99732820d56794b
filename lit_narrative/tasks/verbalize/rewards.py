"""The reward against copying: an explanation that quotes its text loses what the quotation is worth."""

from collections.abc import Callable, Sequence

from lit_narrative.text import WordBits, longest_copy
from lit_narrative.views import Rollout


class CopyPenalty:
    """Minus the bits of the longest span that an explanation shares with its source; 0 without an explanation.

    Its weight under ``model.rewards`` is in reward a bit: with the reconstruction reward, whose error lies in 0..4,
    some 0.01.

    Args:
        bits: word frequencies.
        parse: cuts the explanation out of a completion; None where it has none.
    """

    name = "copied"

    def __init__(self, bits: WordBits, parse: Callable[[str], str | None]) -> None:
        self.bits, self.parse = bits, parse

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float]:
        """Score completions, whose column ``source`` is the text up to the position."""
        return [-self._copied(rollout) for rollout in rollouts]

    def _copied(self, rollout: Rollout) -> float:
        text = self.parse(rollout.text)
        return self.bits(longest_copy(text or "", str(rollout.columns.get("source", "")), self.bits))
