"""What tells authors apart without anything learned: Burrows' Delta, function words, and the length of sentences.

A judge that is no better than these has learned nothing of style that counting does not know. Notation: n pairs.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lit_narrative.tasks.style.masking import FUNCTION_WORDS

Floats = npt.NDArray[np.float64]
Similarity = Callable[[Sequence[str], Sequence[str]], npt.NDArray[np.floating[Any]]]
"""How alike n texts are to n others: (n,), the higher the more."""
FREQUENT = 150
"""Words that Burrows' Delta counts."""
# A word, or any other sign alone: punctuation is counted, and so are the signs of masked words.
_TOKEN = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*|[^\s\w]|µ|Ø")
_SENTENCE = re.compile(r"[.!?]+")


def tokens(text: str) -> list[str]:
    """Words in small letters, and signs."""
    return _TOKEN.findall(text.casefold().replace("’", "'"))


class Delta:
    """Burrows' Delta (2002): minus the mean distance of the standardised frequencies of the most frequent words.

    Delta(A, B) = 1/m Σ |z_i(A) - z_i(B)|; the m words, their means and their deviations come from other texts.

    Args:
        texts: whose frequencies are the norm, such as those of training.
        frequent: m.
    """

    def __init__(self, texts: Sequence[str], frequent: int = FREQUENT) -> None:
        counts = Counter(token for text in texts for token in tokens(text))
        self.words = [word for word, _ in counts.most_common(frequent)]
        table = frequencies(texts, self.words)
        self._mean, self._deviation = table.mean(0), table.std(0)
        self._deviation[self._deviation == 0] = 1.0

    def __call__(self, texts: Sequence[str], others: Sequence[str]) -> Floats:
        """Minus the distance of each pair."""
        first, second = by_text(self._standardised, texts, others)
        return -np.abs(first - second).mean(1)

    def _standardised(self, texts: Sequence[str]) -> Floats:
        return (frequencies(texts, self.words) - self._mean) / self._deviation


def frequencies(texts: Sequence[str], words: Sequence[str]) -> Floats:
    """(n, m) the share of each word among a text's tokens."""
    table = np.zeros((len(texts), len(words)))
    places = {word: place for place, word in enumerate(words)}
    for row, text in enumerate(texts):
        found = tokens(text)
        for word, count in Counter(found).items():
            if word in places:
                table[row, places[word]] = count / len(found)
    return table


def function_word_cosine(texts: Sequence[str], others: Sequence[str]) -> Floats:
    """The cosine of the frequencies of function words; 0 where a text has none."""
    words = sorted(FUNCTION_WORDS)
    first, second = by_text(lambda given: frequencies(given, words), texts, others)
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return (first * second).sum(1) / np.where(norms == 0, 1.0, norms)


def length_similarity(texts: Sequence[str], others: Sequence[str]) -> Floats:
    """Minus the distance of the logarithms of two texts' words a sentence."""
    first, second = by_text(_sentence_lengths, texts, others)
    return -np.abs(first - second)[:, 0]


def _sentence_lengths(texts: Sequence[str]) -> Floats:
    sentences = ([len(part.split()) for part in _SENTENCE.split(text) if part.strip()] for text in texts)
    return np.array([[np.log(np.mean(found) if found else 1.0)] for found in sentences]).reshape(-1, 1)


def by_text(features: Callable[[Sequence[str]], Floats], *sides: Sequence[str]) -> list[Floats]:
    """Features (n, m) of each side of the pairs, computed once for each text however many pairs it is in."""
    distinct = list(dict.fromkeys(text for side in sides for text in side))
    table, row = features(distinct), {text: number for number, text in enumerate(distinct)}
    return [table[[row[text] for text in side]] for side in sides]


def baselines(training: Sequence[str]) -> Mapping[str, Similarity]:
    """The baselines by name; those that need a norm take it from texts of training."""
    return {"delta": Delta(training), "function_words": function_word_cosine, "length": length_similarity}
