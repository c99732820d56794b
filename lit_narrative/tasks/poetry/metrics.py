"""Measures of verse: how much texts have of a topic, and which lines are whole.

Words are compared in small letters and without punctuation. Every share of nothing is 0.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from lit_narrative.tasks.poetry.topics import Topic
from lit_narrative.text import words_of


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
