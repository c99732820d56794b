"""Word lists of topics: by name, from a file, or from what sets one corpus apart from another."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lit_narrative.errors import UserError
from lit_narrative.tasks.poetry.corpus import read_corpus
from lit_narrative.tasks.poetry.topics import EVERYDAY, TOPICS, Topic
from lit_narrative.text import words_of

NAMED: Mapping[str, Topic] = {**TOPICS, **EVERYDAY}
"""Every topic that has a name."""


@dataclass(frozen=True)
class ContrastBag:
    """A bag made from two corpora: words that are commoner in one than in the other.

    Args:
        name: of the topic.
        texts: file or folder of verse that the topic is to be like.
        against: file or folder of verse that it is set against.
        size: words, at most; every second one is held out.
        threshold: least z-score of a word, standard errors; 1.96 is the usual 5 %.
    """

    name: str
    texts: str
    against: str
    size: int = 40
    threshold: float = 1.96

    def __post_init__(self) -> None:
        if self.size < 2 or not 0 < self.threshold < math.inf:
            raise UserError(
                f"bag '{self.name}': size={self.size} must be 2 or more, threshold={self.threshold} above 0"
            )


def find_topic(wanted: str | ContrastBag, read_words: Callable[[str], Mapping[str, float]]) -> Topic:
    """A topic by its name, from a file (all of its words known to steering, none held out), or from two corpora.

    Args:
        wanted: a name, a path, or two corpora.
        read_words: reads a file of words, with their weights.

    Raises:
        UserError: there is neither such a topic nor such a file, or it has no words.
    """
    if isinstance(wanted, ContrastBag):
        scores = contrast_bag(_texts(wanted.texts), _texts(wanted.against), wanted.size, wanted.threshold)
        if not scores:
            raise UserError(
                f"bag '{wanted.name}': no word of {wanted.texts} stands out from {wanted.against} by a z-score of "
                f"{wanted.threshold}; lower the threshold or give more text"
            )
        words = tuple(scores)
        # In turn, best first: both halves are as telling.
        return Topic(wanted.name, words[::2], words[1::2])
    if wanted in NAMED:
        return NAMED[wanted]
    weights = read_words(wanted)
    weighted = any(weight != 1 for weight in weights.values())
    return Topic(Path(wanted).stem, tuple(weights), weights=tuple(weights.values()) if weighted else ())


def contrast_bag(
    texts: Iterable[str], against: Iterable[str], size: int = 40, threshold: float = 1.96, prior: float = 0.1
) -> dict[str, float]:
    """Words that set texts apart from others, with z-scores of their log-odds, the highest first.

    The difference of log-odds of each word has an informative Dirichlet prior in proportion to the word's frequency in
    both corpora together, so that rare words need more evidence (Monroe, Colaresi and Quinn 2008, eqs. 16, 20, 22).

    Args:
        texts: the corpus that the words are to be of.
        against: the other one.
        size: words, at most.
        threshold: least z-score.
        prior: how many words the prior counts for, over those of both corpora, above 0.
    """
    counts, others = (Counter(word for text in side for word in words_of(text)) for side in (texts, against))
    both = counts + others
    if len(both) < 2:
        return {}
    n, m = counts.total(), others.total()
    weight = prior * (n + m)
    scores = {}
    for word, count in both.items():
        alpha = prior * count
        y, x = counts[word] + alpha, others[word] + alpha
        # The variance of delta is 1 / y + 1 / x, to a good approximation (eq. 20).
        delta = math.log(y / (n + weight - y)) - math.log(x / (m + weight - x))
        scores[word] = delta / math.sqrt(1 / y + 1 / x)
    # Ties in the order of the alphabet: the list must not depend on the order of the files.
    best = sorted(scores, key=lambda word: (-scores[word], word))
    return {word: scores[word] for word in best[:size] if scores[word] >= threshold}


def _texts(path: str) -> list[str]:
    return [poem.text for poem in read_corpus(path)]
