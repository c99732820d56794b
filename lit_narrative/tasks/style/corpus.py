"""A corpus of style: authors, their books in chunks, and the splits of chunks and of authors."""

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, Literal

from lit_narrative.books.authors import merge_authors, same_author
from lit_narrative.books.read import Book
from lit_narrative.errors import UserError, check_choice
from lit_narrative.tasks.style.chunks import ChunkWords, chunks_of
from lit_narrative.text import sentences_of

logger = logging.getLogger(__name__)

Part = Literal[0, 1]
FEW_BOOKS = 4
"""Books from which on whole books are held out; of fewer the end of each is."""
LEAST_CHUNKS = 10
"""Chunks that an author needs: the last tenth is held out for the test, the tenth before it for validation."""
SAME_BOOK = 0.3
"""Share of a book's paragraphs from which on it is another edition of a book that is there."""
SHARED_WORDS = 20
"""Words of a sentence that must not stand in training and in a held-out chunk."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk of a book.

    Attributes:
        text: whole sentences.
        author: one name for all spellings.
        title: of the book.
        subject: that books of other authors have too, or the form: ``prose`` or ``verse``.
        number: of the chunk in its book, from 0.
        split: ``train``, ``val`` or ``test``.
        part: half of the training chunks, 0 or 1; None of held-out chunks.
    """

    text: str
    author: str
    title: str
    subject: str
    number: int
    split: str
    part: int | None = None

    @property
    def name(self) -> str:
        """What tells it from all other chunks."""
        return f"{self.author}: {self.title}, {self.number}"


class StyleCorpus:
    """Chunks of the books of several authors.

    Of an author with four books or more, whole books are held out: a sixth of them, one at least, for the test, as many
    for validation. Of an author with fewer, one included, the last tenth of each book is the test, the tenth before it
    validation, and the chunk before each is left out. A training chunk that shares a long sentence with a held-out one
    is left out.

    Args:
        books: in an order that decides nothing.
        words: size of chunks.
        seed: which books are held out.

    Raises:
        UserError: there is no author with enough text.
    """

    def __init__(self, books: Iterable[Book], words: ChunkWords = ChunkWords(), seed: int = 0) -> None:  # noqa: B008
        self.words, self.seed = words, seed
        shelves = _shelves(books)
        subjects = _subjects(shelves)
        dealt = {author: self._dealt(author, shelf, subjects) for author, shelf in shelves.items()}
        small = sorted(author for author, chunks in dealt.items() if not _enough(chunks))
        if small:
            message = "authors left out, with fewer than %d chunks of %d to %d words: %s"
            logger.warning(message, LEAST_CHUNKS, words.shortest, words.most, ", ".join(small))
        kept = {author: chunks for author, chunks in sorted(dealt.items()) if author not in small}
        if not kept:
            raise UserError(
                f"data.books: no author has {LEAST_CHUNKS} chunks of {words.shortest} to {words.most} words; give "
                "longer books, or smaller chunks (data.chunk_words.most)"
            )
        if lone := [author for author in kept if len(shelves[author]) == 1]:
            message = "authors with one book, whose end is held out; two texts of theirs are of that book: %s"
            logger.warning(message, ", ".join(lone))
        self.chunks = _without_shared([chunk for chunks in kept.values() for chunk in chunks])
        self.books = {author: tuple(shelves[author]) for author in kept}
        self.authors = tuple(kept)

    def find_author(self, name: str) -> str:
        """The author of a name in any spelling.

        Raises:
            UserError: the corpus has no such author, or several.
        """
        found = [author for author in self.authors if author == name] or [
            author for author in self.authors if same_author(author, name)
        ]
        if len(found) != 1:
            check_choice("data.authors", name, self.authors)
        return found[0]

    def of(self, split: str, author: str | None = None) -> list[Chunk]:
        """The chunks of a split, of one author or of all."""
        return [chunk for chunk in self.chunks if chunk.split == split and author in (None, chunk.author)]

    def _dealt(self, author: str, shelf: Sequence[Book], subjects: Mapping[tuple[str, str], str]) -> list[Chunk]:
        """The chunks of an author, with their splits."""
        whole = len(shelf) >= FEW_BOOKS
        ordered = sorted(shelf, key=lambda book: _digest(f"{self.seed}/{author}/{book.title}"))
        held = max(len(shelf) // 6, 1)
        chunks: list[Chunk] = []
        for place, book in enumerate(ordered):
            texts = chunks_of(book.text, self.words)
            plain = [
                Chunk(text, author, book.title, subjects[author, book.title], number, "train")
                for number, text in enumerate(texts)
            ]
            if whole:
                split = "test" if place < held else "val" if place < 2 * held else "train"
                part = place % 2 if split == "train" else None
                chunks += (replace(chunk, split=split, part=part) for chunk in plain)
            else:
                chunks += _stretches(plain)
        return chunks


def _stretches(chunks: list[Chunk]) -> list[Chunk]:
    """The chunks of one book by their place: 80 % training in two halves, a tenth validation, a tenth test."""
    count = len(chunks)
    train, val = count - 2 * max(count // 10, 1), count - max(count // 10, 1)
    # What comes before a border is left out: it tells how the next chunk begins.
    borders = {train - 1, val - 1} if val - train > 1 else {train - 1}
    found = []
    for place, chunk in enumerate(chunks):
        if place in borders:
            continue
        split = "train" if place < train else "val" if place < val else "test"
        found.append(replace(chunk, split=split, part=int(place >= train // 2) if split == "train" else None))
    return found


def _enough(chunks: Sequence[Chunk]) -> bool:
    return len(chunks) >= LEAST_CHUNKS - 2 and {chunk.split for chunk in chunks} == {"train", "val", "test"}


def _without_shared(chunks: list[Chunk]) -> list[Chunk]:
    """Chunks without those of training that share a long sentence with a held-out one."""
    held = {s for chunk in chunks if chunk.split != "train" for s in long_sentences(chunk.text)}
    kept = [chunk for chunk in chunks if chunk.split != "train" or held.isdisjoint(long_sentences(chunk.text))]
    if len(kept) < len(chunks):
        logger.warning(
            "training chunks left out, since a held-out chunk has a sentence of theirs: %d", len(chunks) - len(kept)
        )
    return kept


def long_sentences(text: str) -> set[str]:
    """The sentences of a text with `SHARED_WORDS` words or more."""
    return {sentence for sentence in sentences_of(text) if len(sentence.split()) >= SHARED_WORDS}


# --- books ------------------------------------------------------------------------------------------------------------


def _shelves(books: Iterable[Book]) -> dict[str, list[Book]]:
    """Books by author, all spellings of a name together, without second editions."""
    every = sorted(books, key=lambda book: (book.author, book.title, book.id))
    named = [book for book in every if book.author]
    if nameless := [book.title for book in every if not book.author]:
        logger.warning("books left out, since their author is not known: %s", ", ".join(nameless))
    merged = merge_authors(book.author for book in named)
    shelves: dict[str, list[Book]] = defaultdict(list)
    seen: list[tuple[Book, set[bytes]]] = []
    for book in named:
        paragraphs = {_digest(p) for p in book.text.split("\n\n") if len(p.split()) >= 8}
        twin = next((other for other, known in seen if _overlap(paragraphs, known) > SAME_BOOK), None)
        if twin is not None:
            logger.warning("'%s' (%s) is left out: it is '%s' again", book.title, book.id, twin.title)
            continue
        seen.append((book, paragraphs))
        shelf = shelves[merged[book.author]]
        # Volumes may share a title, and splits go by titles.
        same = any(other.title == book.title for other in shelf)
        shelf.append(replace(book, title=f"{book.title} ({book.id})") if same else book)
    return dict(shelves)


def _overlap(one: set[bytes], other: set[bytes]) -> float:
    return len(one & other) / max(min(len(one), len(other)), 1)


def _subjects(shelves: Mapping[str, Sequence[Book]]) -> dict[tuple[str, str], str]:
    """Author and title -> the first subject that a book of another author has too; without one the form."""
    authors = Counter(subject for shelf in shelves.values() for subject in {s for b in shelf for s in b.subjects})
    return {
        (author, book.title): next((s for s in book.subjects if authors[s] > 1), _form(book.text))
        for author, shelf in shelves.items()
        for book in shelf
    }


def _form(text: str) -> str:
    """``verse`` where most paragraphs have lines, else ``prose``."""
    paragraphs = text.split("\n\n")
    return "verse" if 2 * sum("\n" in part for part in paragraphs) > len(paragraphs) else "prose"


# --- splits -----------------------------------------------------------------------------------------------------------


def split_authors(corpus: StyleCorpus, known: Sequence[str], held_out: Sequence[str] | None = None) -> dict[str, str]:
    """Each author's split: of every subject with four authors or more some are held out.

    Of such a subject a fifth of the authors, two at least, are the test, and if six or more authors are left as many
    are validation; otherwise validation is held-out chunks of the training's authors.

    Args:
        corpus: whose authors they are.
        known: authors who stay in training.
        held_out: authors of the test; None: drawn by the corpus's seed.

    Raises:
        UserError: there are too few authors.
    """
    split = dict.fromkeys(corpus.authors, "train")
    if held_out is not None:
        split |= dict.fromkeys(held_out, "test")
        return split
    subjects = {author: Counter(c.subject for c in corpus.chunks if c.author == author) for author in corpus.authors}
    main = {author: counts.most_common(1)[0][0] for author, counts in subjects.items()}
    for subject in sorted(set(main.values())):
        authors = sorted(
            (author for author in corpus.authors if main[author] == subject),
            key=lambda author: _digest(f"{corpus.seed}/{author}"),
        )
        count = max(len(authors) // 5, 2)
        free = [author for author in authors if author not in known]
        if len(authors) >= 4 and len(free) >= 2:
            split |= dict.fromkeys(free[:count], "test")
            if len(authors) - count >= 6 and len(free) >= count + 2:
                split |= dict.fromkeys(free[count : 2 * count], "val")
    if "test" not in split.values():
        raise UserError(
            "data.split_by=author needs four authors of one subject or form, two of whom can be held out; the books "
            f"have {len(corpus.authors)}: {', '.join(corpus.authors)}. Give more books, name data.held_out, or set "
            "data.split_by=book"
        )
    return split


def grouped(items: Iterable[Any], attribute: str) -> dict[Any, list[Any]]:
    """Items by an attribute, in order of their first."""
    found: dict[Any, list[Any]] = {}
    for item in items:
        found.setdefault(getattr(item, attribute), []).append(item)
    return found


def _digest(text: str) -> bytes:
    return blake2b(text.encode("utf-8", errors="backslashreplace"), digest_size=8).digest()
