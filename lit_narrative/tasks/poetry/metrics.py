"""Measures of texts: how varied they are, and how much they say of a topic.

Words are compared in small letters and without punctuation. Every share of nothing is 0.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from lit_narrative.errors import UserError
from lit_narrative.tasks.poetry.topics import Topic

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


class TopicShares(NamedTuple):
    """Shares of all words of some texts, in 0..1.

    Attributes:
        bag: of the words that steering and rewards know.
        held_out: of the topic's other words.
        off_topic: of the words of other topics.
    """

    bag: float
    held_out: float
    off_topic: float


def words_of(text: str) -> list[str]:
    """The words of a text in small letters; an apostrophe inside a word is part of it."""
    return _WORD.findall(text.casefold())


# --- variety ----------------------------------------------------------------------------------------------------------


def distinct_n(texts: Sequence[str], n: int, samples: int | None = None) -> float:
    """Distinct n-grams over all n-grams of the texts together (Li et al. 2016).

    It falls with the number of texts, so figures compare only at one number of ``samples``: then it is the mean over
    consecutive groups of so many texts, and what is left over is not counted.

    Raises:
        UserError: there are fewer texts than ``samples``.
    """
    if samples is None:
        return distinct_share(gram for text in texts for gram in ngrams(words_of(text), n))
    if not 1 <= samples <= len(texts):
        raise UserError(f"distinct-{n} at {samples} samples needs as many texts; there are {len(texts)}")
    starts = range(0, len(texts) - samples + 1, samples)
    return fmean(distinct_n(texts[start : start + samples], n) for start in starts)


def repetition(texts: Sequence[str], n: int = 3) -> float:
    """Share of a text's n-grams of words that it has had before, mean over texts."""
    grams = [ngrams(words_of(text), n) for text in texts]
    return fmean(1 - distinct_share(own) if own else 0.0 for own in grams) if texts else 0.0


def self_bleu(texts: Sequence[str], n: int = 4, most: int = 100) -> float:
    """BLEU-n of each text against all others, mean (Zhu et al. 2018): 1 where all are the same; 0 of fewer than two.

    Counts are smoothed by one (Lin and Och 2004). The cost grows with the square of the texts, so only the first
    ``most`` are read.
    """
    from torchmetrics.functional.text import bleu_score

    read = [" ".join(words_of(text)) for text in texts[:most]]
    if len(read) < 2:
        return 0.0
    pairs = ((own, [*read[:place], *read[place + 1 :]]) for place, own in enumerate(read))
    return fmean(float(bleu_score([own], [others], n_gram=n, smooth=True)) for own, others in pairs)


def ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """All runs of n words, in order."""
    return [tuple(words[place : place + n]) for place in range(len(words) - n + 1)]


def distinct_share(grams: Iterable[tuple[str, ...]]) -> float:
    """Distinct n-grams over all of them."""
    every = list(grams)
    return len(set(every)) / max(len(every), 1)


# --- topic ------------------------------------------------------------------------------------------------------------


def topic_shares(
    texts: Iterable[str], bag: Collection[str], held_out: Collection[str] = (), others: Collection[str] = ()
) -> TopicShares:
    """How much of all words of the texts together is of a topic.

    A method that was given the bag has moved the topic itself only as far as ``held_out`` has risen with ``bag``.

    Args:
        texts: without their prompts.
        bag: words that were steered or rewarded by.
        held_out: other words of the topic.
        others: words of other topics.
    """
    counts = Counter(word for text in texts for word in words_of(text))
    total = max(counts.total(), 1)
    kinds = ({word.casefold() for word in kind} for kind in (bag, held_out, others))
    return TopicShares(*(sum(counts[word] for word in kind) / total for kind in kinds))


def majority_topic(text: str, topics: Mapping[str, Topic]) -> str | None:
    """The topic with most words in a text, held-out words included; None where no one topic has most."""
    counts = Counter(words_of(text))
    scores = {name: sum(counts[word.casefold()] for word in topic.words) for name, topic in topics.items()}
    best = max(scores.values(), default=0)
    leaders = [name for name, score in scores.items() if score == best]
    return leaders[0] if best and len(leaders) == 1 else None


# --- form -------------------------------------------------------------------------------------------------------------


def whole_lines(text: str, finished: bool = True) -> list[str]:
    """Lines that are not empty; without the last one if the text was cut."""
    lines = text.split("\n")
    return [line for line in (lines if finished else lines[:-1]) if line]
