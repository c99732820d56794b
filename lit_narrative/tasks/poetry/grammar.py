"""A verse grammar with topics: eight kinds of line, a lexicon for each topic and one of no topic.

A poem has one topic. Each content word is of the topic with probability `ON_TOPIC`, of another topic with `OFF_TOPIC`,
and otherwise of none; many poems open with a line of neutral words alone, which tells nothing of the topic. Poem
number ``index`` of a split depends on (seed, split, index) alone, and a digest of the opening line says to which split
a poem belongs: whatever the seeds, no opening is in two splits.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from lit_narrative.tasks.poetry.topics import LEXICONS, NEUTRAL, TOPICS, Lexicon

ON_TOPIC, OFF_TOPIC, NEUTRAL_OPENING = 0.60, 0.04, 0.60
"""Probabilities: that a content word is of the poem's topic, of another topic; that the opening line is neutral."""
LINES = (5, 7)
"""Fewest and most lines of a poem."""

PATTERNS = (
    "the A N V again",
    "every N V beside the A N",
    "under one A N we wait",
    "where this N V so V that N",
    "no N V when the A N V",
    "our N is A and never A",
    "and still we know how the N V",
    "toward my A N with some N",
)
"""The kinds of line: N, A and V stand for any noun, adjective and verb, the other words for themselves."""
_CONTENT = {"N": "nouns", "A": "adjectives", "V": "verbs"}
_SPLITS = ("train", "val", "test")


def _words(lexicon: Lexicon, symbol: str) -> tuple[str, ...]:
    words: tuple[str, ...] = getattr(lexicon, _CONTENT[symbol])
    return words


_ALL = (NEUTRAL, *LEXICONS.values())
_CLASSES = {symbol: frozenset(word for lexicon in _ALL for word in _words(lexicon, symbol)) for symbol in _CONTENT}
_CONTENT_WORDS = frozenset(word for lexicon in _ALL for word in lexicon.words)


@dataclass(frozen=True, slots=True)
class Verse:
    """A poem of the grammar.

    Attributes:
        lines: in order, all in small letters and without punctuation.
        topic: its name.
        neutral_opening: whether the first line has neutral words alone.
    """

    lines: tuple[str, ...]
    topic: str
    neutral_opening: bool

    @property
    def text(self) -> str:
        """The lines, one below the other."""
        return "\n".join(self.lines)


def verse(seed: int, split: str, index: int, topic: str | None = None) -> Verse:
    """Poem number ``index`` of a split.

    Args:
        seed: of the whole set, 0 or more.
        split: ``train``, ``val`` or ``test``.
        index: 0 or more.
        topic: one of `TOPICS`; None: drawn as well.
    """
    rng = _generator(seed, split, index, 0)
    # Whole openings are drawn until one belongs to the split, so that openings of a split are a fair sample of all.
    while True:
        name = topic or list(TOPICS)[rng.integers(len(TOPICS))]
        neutral = bool(rng.random() < NEUTRAL_OPENING)
        first = _line(rng, None if neutral else name)
        if bucket_of(first) == split:
            rest = (_line(rng, name) for _ in range(rng.integers(LINES[0], LINES[1] + 1) - 1))
            return Verse((first, *rest), name, neutral)


def openings(seed: int, split: str) -> Iterator[str]:
    """Distinct neutral lines without end, to be continued on any topic; none is in two splits."""
    rng, seen = _generator(seed, split, 0, 1), set[str]()
    while True:
        line = _line(rng, None)
        if line not in seen and bucket_of(line) == split:
            seen.add(line)
            yield line


def is_line(text: str) -> bool:
    """Whether the grammar can make this line, on whatever topic."""
    # One space between words and none at the ends: other white space is not of the grammar.
    words = text.split()
    return text == " ".join(words) and any(_fits(words, pattern.split()) for pattern in PATTERNS)


def content_share(text: str, words: Collection[str]) -> float:
    """Share of a text's content words (the grammar's nouns, adjectives and verbs) that are among ``words``."""
    content = [word for word in text.split() if word in _CONTENT_WORDS]
    return sum(word in words for word in content) / max(len(content), 1)


def vocabulary() -> tuple[str, ...]:
    """Every word of the grammar, once."""
    fixed = (word for pattern in PATTERNS for word in pattern.split() if word.islower())
    content = (word for lexicon in _ALL for word in lexicon.words)
    return tuple(dict.fromkeys((*fixed, *content)))


def vocabulary_texts() -> Iterator[str]:
    """Texts with every word, alone and behind a space, and the line break: a word-level tokenizer learns them all.

    They are the same for every seed, so that models of two seeds share a tokenizer.
    """
    for word in vocabulary():
        yield f"{word}\n{word} {word}"


def bucket_of(opening: str) -> str:
    """The split in which a poem with this opening line may be: eight in ten in training, one each in the others."""
    digit = int.from_bytes(blake2b(opening.encode(), digest_size=4).digest(), "big") % 10
    # A digest and not the seed decides, so that models of two seeds can share a test.
    return {8: "val", 9: "test"}.get(digit, "train")


def _generator(seed: int, split: str, index: int, stream: int) -> np.random.Generator:
    """The random stream of one poem; ``stream`` keeps poems and openings apart."""
    # spawn_key gives independent streams without drawing those of the poems before.
    children = np.random.SeedSequence(seed, spawn_key=(stream, _SPLITS.index(split), index))
    return np.random.default_rng(children)


def _line(rng: np.random.Generator, topic: str | None) -> str:
    """A line on a topic, or of neutral words alone."""
    pattern = PATTERNS[rng.integers(len(PATTERNS))]
    return " ".join(_word(rng, symbol, topic) for symbol in pattern.split())


def _word(rng: np.random.Generator, symbol: str, topic: str | None) -> str:
    if symbol not in _CONTENT:
        return symbol
    choices = _words(_draw_lexicon(rng, topic), symbol)
    return choices[rng.integers(len(choices))]


def _draw_lexicon(rng: np.random.Generator, topic: str | None) -> Lexicon:
    drawn = rng.random()
    if topic is None or drawn >= ON_TOPIC + OFF_TOPIC:
        return NEUTRAL
    if drawn < ON_TOPIC:
        return LEXICONS[topic]
    others = [name for name in LEXICONS if name != topic]
    return LEXICONS[others[rng.integers(len(others))]]


def _fits(words: list[str], pattern: list[str]) -> bool:
    if len(words) != len(pattern):
        return False
    return all(word in _CLASSES.get(symbol, (symbol,)) for word, symbol in zip(words, pattern, strict=True))
