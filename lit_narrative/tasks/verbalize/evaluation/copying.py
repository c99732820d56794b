"""Words that explanations copy from the text whose activation they explain.

An actor is given a vector and no text, yet reinforcement pays for whatever brings the vector back, and text fragments
bring it back well: the figure tells how much of an explanation is quotation.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from lit_narrative.report.intervals import Resamples
from lit_narrative.text import words_of


class WordBits:
    """Information of words under their frequencies in some texts, in bits; a word that they lack counts as seen once.

    Args:
        texts: to count in, such as the sources of the training rows.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._counts = Counter(word for text in texts for word in words_of(text))
        # One is added to every count, with one place for all words that were never seen (Laplace).
        self._total = sum(self._counts.values()) + len(self._counts) + 1

    def __call__(self, words: Iterable[str]) -> float:
        """Bits of words that are drawn one by one."""
        return sum(math.log2(self._total / (self._counts[word] + 1)) for word in words)


def longest_copy(text: str, source: str, bits: WordBits) -> tuple[str, ...]:
    """The span of words that stands in both texts and is worth most bits; empty where they share no word.

    By bits and not by length: to copy "of the" is nothing, to copy a name is much.
    """
    words, others = words_of(text), words_of(source)
    places: dict[str, list[int]] = {}
    for place, word in enumerate(others):
        places.setdefault(word, []).append(place)
    best, span = 0.0, (0, 0)
    ending: dict[int, int] = {}  # place in the source -> length of the common span that ends there
    for end, word in enumerate(words):
        ending = {place: ending.get(place - 1, 0) + 1 for place in places.get(word, ())}
        longest = max(ending.values(), default=0)
        worth = bits(words[end + 1 - longest : end + 1])
        if worth > best:
            best, span = worth, (end + 1 - longest, end + 1)
    return tuple(words[slice(*span)])


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
