"""Chunks of books: whole sentences packed up to a number of words, with paragraphs kept."""

from collections.abc import Iterator
from dataclasses import dataclass

from lit_narrative.errors import UserError, check_least
from lit_narrative.text import sentences_of


@dataclass(frozen=True)
class ChunkWords:
    """The size of chunks in words, which are what white space parts.

    Args:
        most: a chunk has no more, unless a single sentence has.
        least: a shorter rest at the end of a book is left out; None: half of ``most``.

    Raises:
        UserError: a number is out of range.
    """

    most: int = 80
    least: int | None = None

    def __post_init__(self) -> None:
        check_least("data.chunk_words.most", self.most, 1)
        check_least("data.chunk_words.least", self.least, 1)
        if self.least is not None and self.least > self.most:
            raise UserError(
                f"data.chunk_words: least={self.least} is more than most={self.most}; no chunk would be left"
            )

    @property
    def shortest(self) -> int:
        """Words that a chunk has at least."""
        return self.least or (self.most + 1) // 2


def chunks_of(text: str, words: ChunkWords) -> list[str]:
    """The chunks of a text in order: sentences of a paragraph parted by a space, paragraphs by a blank line.

    A chunk ends where the next sentence would make it too long, so that all but the last are nearly full. One that is
    too short, since a long sentence follows, is left out as a short rest is.
    """
    return [chunk for chunk, count in _packed(text, words.most) if count >= words.shortest]


def _packed(text: str, most: int) -> Iterator[tuple[str, int]]:
    """Chunks with their numbers of words."""
    parts: list[str] = []
    count = 0
    for paragraph in text.split("\n\n"):
        gap = "\n\n"
        for sentence in sentences_of(paragraph):
            size = len(sentence.split())
            if parts and count + size > most:
                yield "".join(parts), count
                parts, count = [], 0
            parts += (gap, sentence) if parts else (sentence,)
            count, gap = count + size, " "
    if parts:
        yield "".join(parts), count
