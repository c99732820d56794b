"""Where verse comes from: the grammar, or files; both give poems, openings to continue, and ratings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Protocol

from lit_narrative.errors import UserError
from lit_narrative.tasks.poetry.corpus import normal_form, pieces, read_corpus, text_files
from lit_narrative.tasks.poetry.grammar import content_share, openings, verse
from lit_narrative.tasks.poetry.metrics import majority_topic, words_of
from lit_narrative.tasks.poetry.poems import Poem
from lit_narrative.tasks.poetry.splits import split_keys
from lit_narrative.tasks.poetry.topics import TOPICS, Topic


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
    """Poems and openings in three splits that share neither."""

    @property
    def topics(self) -> Mapping[str, Topic]:
        """Topics that its poems are on, by name."""

    def poems(self, split: str, most: int) -> Sequence[Piece]:
        """The first ``most`` poems of a split, or as many as there are."""

    def openings(self, split: str, most: int) -> Sequence[str]:
        """First lines to continue, without repetition."""

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

    def rating(self, text: str, topic: Topic) -> float:
        """Share of the content words that are of the topic."""
        return content_share(text, topic.words)


@dataclass(frozen=True)
class CorpusVerse:
    """Verse that people wrote. Poems with the same first line are in one split, and so are the pieces of a poem.

    Args:
        path: file or folder, as :func:`read_corpus` takes it.
        max_lines: longest piece.
        seed: of the splits.
        topics: what pieces may be on, by name.

    Raises:
        UserError: there is no such file or folder, or no text file in it.
    """

    path: str
    max_lines: int
    seed: int
    topics: Mapping[str, Topic]

    def __post_init__(self) -> None:
        text_files(self.path)

    def poems(self, split: str, most: int) -> list[Piece]:
        """Pieces, in the order of the files."""
        cut = (piece for poem in self._split[split] for piece in pieces(poem, self.max_lines))
        return [self._piece(poem) for poem in islice(cut, most)]

    def openings(self, split: str, most: int) -> list[str]:
        """First lines of pieces."""
        return list(dict.fromkeys(piece.text.split("\n")[0] for piece in self.poems(split, most)))

    def rating(self, text: str, topic: Topic) -> float:
        """Share of the lines that have a word of the topic."""
        words = set(topic.words)
        lines = [bool(words.intersection(words_of(line))) for line in text.splitlines() if line]
        return sum(lines) / max(len(lines), 1)

    @cached_property
    def _split(self) -> dict[str, list[Poem]]:
        poems = read_corpus(self.path)
        of = split_keys((_key(poem) for poem in poems), self.seed)
        found = {split: [poem for poem in poems if of[_key(poem)] == split] for split in ("train", "val", "test")}
        if not all(found.values()):
            raise UserError(
                f"data.corpus: {self.path} has {len(poems)} poems; training, validation and test need one each, with "
                "different first lines: give more"
            )
        return found

    def _piece(self, poem: Poem) -> Piece:
        return Piece(poem.text, majority_topic(poem.text, self.topics), poem.source)


def _key(poem: Poem) -> str:
    return normal_form(poem.lines[0])
