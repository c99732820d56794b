"""Sources of verse: the grammar, or files; both give poems, openings to continue, and ratings."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Protocol

from lit_narrative.books.read import book_files
from lit_narrative.errors import UserError
from lit_narrative.tasks.poetry.corpus import half_of_keys, normal_form, pieces, read_corpus, split_keys
from lit_narrative.tasks.poetry.grammar import content_share, openings, verse
from lit_narrative.tasks.poetry.metrics import majority_topic
from lit_narrative.tasks.poetry.poems import Poem
from lit_narrative.tasks.poetry.topics import TOPICS, Topic
from lit_narrative.text import words_of


@dataclass(frozen=True, slots=True)
class Piece:
    """A poem, or as many of its lines as make one row.

    Attributes:
        text: two lines or more.
        topic: what it is on; None where no one topic has most words.
        source: file that it is from; empty for the grammar.
    """

    text: str
    topic: str | None
    source: str = ""


class VerseSource(Protocol):
    """Poems and openings in three splits that share neither; the first of them are a fair sample of all."""

    @property
    def topics(self) -> Mapping[str, Topic]:
        """Topics that its poems are on, by name."""

    def poems(self, split: str, most: int) -> Sequence[Piece]:
        """The first ``most`` poems of a split, or as many as there are."""

    def openings(self, split: str, most: int) -> Sequence[str]:
        """First lines to continue, without repetition."""

    def to_rate(self, split: str, topic: Topic, most: int) -> Sequence[Piece]:
        """``most`` poems to rate by a topic, or as many as there are."""

    def rating(self, text: str, topic: Topic) -> float:
        """How much of a text is of a topic, in 0..1."""


@dataclass(frozen=True)
class GrammarVerse:
    """Verse of the grammar.

    Args:
        seed: of all of it.
    """

    seed: int = 0
    topics = TOPICS

    def poems(self, split: str, most: int) -> list[Piece]:
        """Poems on any topic."""
        made = (verse(self.seed, split, index) for index in range(most))
        return [Piece(poem.text, poem.topic) for poem in made]

    def openings(self, split: str, most: int) -> list[str]:
        """Lines of neutral words."""
        return list(islice(openings(self.seed, split), most))

    def to_rate(self, split: str, topic: Topic, most: int) -> list[Piece]:
        """The first poems."""
        return self.poems(split, most)

    def rating(self, text: str, topic: Topic) -> float:
        """Share of the content words that are of the topic."""
        return content_share(text, topic.words)


@dataclass(frozen=True)
class CorpusVerse:
    """Verse that people wrote. Poems with the same first line are in one split, and so are the pieces of a poem.

    A piece that begins like one of another split is left out: of training and validation rather than of the test.

    Args:
        path: file or folder, as `read_corpus` takes it.
        max_lines: longest piece.
        seed: of the splits, and of the order of their pieces.
        topics: what pieces may be on, by name.
        part: half of the poems, 0 or 1, the same under every seed; None: all of them.

    Raises:
        UserError: there is no such file or folder, or no text file in it.
    """

    path: str
    max_lines: int
    seed: int
    topics: Mapping[str, Topic]
    part: int | None = None

    def __post_init__(self) -> None:
        # Here and not at the first poem: a wrong path ends the run before a model is built.
        book_files(self.path, "data.corpus")

    def poems(self, split: str, most: int) -> list[Piece]:
        """Pieces, in an order by the seed."""
        return [self._piece(poem) for poem in self._split[split][:most]]

    def openings(self, split: str, most: int) -> list[str]:
        """First lines of pieces."""
        return list(dict.fromkeys(poem.lines[0] for poem in self._split[split]))[:most]

    def to_rate(self, split: str, topic: Topic, most: int) -> list[Piece]:
        """Pieces, half of them with a word of the topic where there are enough with and without."""
        every = self._split[split]
        on = [index for index, poem in enumerate(every) if self.rating(poem.text, topic)]
        off = sorted(set(range(len(every))).difference(on))
        # More than half where there are too few without a word of the topic.
        on = on[: max(most // 2, most - len(off))]
        return [self._piece(every[index]) for index in sorted([*on, *off[: most - len(on)]])]

    def rating(self, text: str, topic: Topic) -> float:
        """Share of the lines that have a word of the topic."""
        words = {word.casefold() for word in topic.words}
        lines = [bool(words.intersection(words_of(line))) for line in text.splitlines() if line]
        return sum(lines) / max(len(lines), 1)

    @cached_property
    def _split(self) -> dict[str, list[Poem]]:
        poems = self._poems()
        of = split_keys(map(_key, poems), self.seed)
        splits: dict[str, list[Poem]] = {}
        known: set[str] = set()
        # The test first: a piece that begins like one of another split is then left out of training, not of the test.
        for split in ("test", "val", "train"):
            cut = [piece for poem in poems if of[_key(poem)] == split for piece in pieces(poem, self.max_lines)]
            splits[split] = [piece for piece in cut if _key(piece) not in known]
            known.update(map(_key, splits[split]))
            random.Random(self.seed).shuffle(splits[split])
        if not all(splits.values()):
            raise UserError(
                f"data.corpus: {self.path} has {len(poems)} poems{'' if self.part is None else ' in this half'}; "
                "training, validation and test need one each, with different first lines: give more"
            )
        return splits

    def _poems(self) -> list[Poem]:
        poems = read_corpus(self.path)
        if self.part is None:
            return poems
        # By first line, as the splits are: poems with the same opening stay in one half.
        kept = half_of_keys(map(_key, poems), self.part)
        return [poem for poem in poems if _key(poem) in kept]

    def _piece(self, poem: Poem) -> Piece:
        return Piece(poem.text, majority_topic(poem.text, self.topics), poem.source)


def _key(poem: Poem) -> str:
    return normal_form(poem.lines[0])
