"""Sentences of chunks written anew by a language model behind an endpoint: ``lit-narrative data refill``."""

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from lit_narrative.books.shelf import read_shelf
from lit_narrative.files import write_jsonl
from lit_narrative.tasks.style.chunks import ChunkWords
from lit_narrative.tasks.style.corpus import Chunk, StyleCorpus
from lit_narrative.tasks.style.refills import digest, questions, read_refills, refill_row
from lit_narrative.tasks.style.synthetic import synthetic_books

if TYPE_CHECKING:
    from lit_narrative.rl.rewards.chat_client import ChatClient

ROUND = 16
"""Chunks that a language model is asked about between two writes of the file."""


class Refills:
    """A file of refills, and the chunks that it still lacks.

    Args:
        to: the file; what it holds already stays, so that a run that was stopped goes on where it was.
        books: folder of books; None: the synthetic authors.
        words: longest chunk, as ``data.chunk_words.most``.
        least: shortest chunk, as ``data.chunk_words.least``.
        seed: of the synthetic authors, and of the order of the chunks.
        most: chunks at most; None: all.

    Attributes:
        left: chunks that the file lacks.
        rows: of the file, by the name of the chunk.
        failed: reasons why a sentence has no answer, with how often.

    Raises:
        UserError: there are no such books, or the file holds something else.
    """

    def __init__(self, to: str, books: str | None, words: int, least: int | None, seed: int, most: int | None) -> None:
        self.to = to
        corpus = StyleCorpus(
            synthetic_books(seed) if books is None else read_shelf(books), ChunkWords(words, least), seed
        )
        self.rows: dict[str, dict[str, Any]] = {
            row["chunk"]: row for row in (read_refills(to) if Path(to).is_file() else ())
        }
        chunks = list(corpus.chunks)
        # Shuffled and not a sample, so that a larger `most` goes on from a smaller one.
        Random(f"refills {seed}").shuffle(chunks)
        self.left = [one for one in chunks[:most] if self.rows.get(one.name, {}).get("digest") != digest(one.text)]
        self.failed: Counter[str] = Counter()

    def fill(self, client: "ChatClient") -> Iterator[int]:
        """Ask for the sentences of all chunks left, and tell after each round how many were asked about."""
        for start in range(0, len(self.left), ROUND):
            part = self.left[start : start + ROUND]
            self._ask(client, part)
            write_jsonl(self.to, self.rows.values())  # after each round, so that a run that is stopped loses little
            yield start + len(part)

    def _ask(self, client: "ChatClient", chunks: list[Chunk]) -> None:
        from lit_narrative.rl.rewards.base import Lost

        asked = [questions(chunk.text) for chunk in chunks]
        answers = iter(client.complete([question for each in asked for question in each]))
        for chunk, each in zip(chunks, asked, strict=True):
            found = list(islice(answers, len(each)))
            self.failed.update(str(answer) for answer in found if isinstance(answer, Lost))
            row = refill_row(chunk, [None if isinstance(answer, Lost) else answer for answer in found])
            if row is not None:
                self.rows[chunk.name] = row
