"""Words that explanations copy from the text whose activation they explain: how many, and a reward against it.

An actor is given a vector and no text, yet reinforcement pays for whatever brings the vector back, and text fragments
bring it back well: the figures tell how much of an explanation is quotation, and the reward takes off what it is worth.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lit_narrative.report.intervals import Resamples
from lit_narrative.text import WordBits, longest_copy, words_of
from lit_narrative.views import Rollout


def copy_scores(
    resamples: Resamples, texts: Sequence[str | None], sources: Sequence[str], bits: WordBits
) -> dict[str, Any]:
    """How much explanations copy: means over rows, 0 for a row without an explanation.

    ``copied_bits``: of the longest copied span; ``copied_words``: its length; ``words_in_source``: share of an
    explanation's words that stand anywhere in its source.

    Args:
        resamples: of the set's documents.
        texts: the explanations.
        sources: the text up to each position.
        bits: word frequencies.
    """
    spans = [longest_copy(text or "", source, bits) for text, source in zip(texts, sources, strict=True)]
    shares = [_share(text or "", source) for text, source in zip(texts, sources, strict=True)]
    return {
        **resamples.mean("copied_bits", np.array([bits(span) for span in spans])),
        **resamples.mean("copied_words", np.array([float(len(span)) for span in spans])),
        **resamples.mean("words_in_source", np.array(shares)),
    }


def _share(text: str, source: str) -> float:
    words, known = words_of(text), set(words_of(source))
    return sum(word in known for word in words) / len(words) if words else 0.0


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
