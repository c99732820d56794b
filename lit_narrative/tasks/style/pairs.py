"""Graded pairs of chunks, from which a judge of style learns how alike two texts are.

Two originals of one author, of different books where the author has two, score 1; two originals of different authors,
on one subject, score 0. What lies between is made by replacing sentences: with shares r1 and r2 replaced, the integrity
of a pair is I = sqrt((1 - r1²)(1 - r2²)), n = (max(I, 0.19) - 0.19) / 0.81, and its score 0.5 + 0.5 n for one author,
0.5 (1 - n) for two, rounded to one decimal and kept in 0.1..0.9 (arXiv 2512.05747). Offline both texts get sentences of
one third author, so that what is replaced becomes alike; `refills` has them written by a language model instead.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from math import sqrt
from random import Random

from lit_narrative.errors import UserError
from lit_narrative.tasks.style.corpus import Chunk, grouped, long_sentences
from lit_narrative.tasks.style.refills import refilled
from lit_narrative.text import sentences_of
from lit_narrative.views import Pair

BINS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Scores of pairs; 0.5 says nothing, and is left out."""
ORIGINALS = (0.0, 1.0)
"""Scores of pairs of whole chunks."""
KINDS = ("same", "cross", "same_mixed", "cross_mixed")
"""Kinds of pairs: originals of one author and of two, and with replaced sentences."""
_TRIES, _CANDIDATES = 60, 3


def grade(first: float, second: float, same: bool) -> float:
    """The score of a pair with a share of each text replaced.

    Args:
        first: share of the first text's sentences that is replaced, in 0..1.
        second: of the second's.
        same: whether one author wrote both.
    """
    integrity = sqrt((1 - first**2) * (1 - second**2))
    rest = (max(integrity, 0.19) - 0.19) / 0.81
    score = 0.5 + 0.5 * rest if same else 0.5 * (1 - rest)
    return min(max(round(score, 1), 0.1), 0.9)


@cache
def replaceable(first: int, second: int, same: bool, score: float) -> tuple[tuple[int, int], ...]:
    """Numbers of sentences to replace in two texts of so many sentences, so that their grade is a score.

    One at least is replaced in each, and the last one never.
    """
    ways = ((one, two) for one in range(1, first) for two in range(1, second))
    return tuple(way for way in ways if grade(way[0] / first, way[1] / second, same) == score)


def mixed(text: str, filler: Sequence[str], count: int, rng: Random) -> str:
    """A text with ``count`` of its sentences, never the last, replaced by those of ``filler`` in order."""
    paragraphs = [sentences_of(part) for part in text.split("\n\n")]
    places = [(p, s) for p, sentences in enumerate(paragraphs) for s in range(len(sentences))][:-1]
    start = rng.randrange(len(filler))
    for number, (p, s) in enumerate(sorted(rng.sample(places, count))):
        paragraphs[p][s] = filler[(start + number) % len(filler)]
    return "\n\n".join(" ".join(sentences) for sentences in paragraphs)


class PairMaker:
    """Makes pairs of the chunks of one split, every chunk about as often as the others.

    Args:
        chunks: of one split.
        seed: of all choices.
        refills: name of a chunk -> what a language model wrote in place of its sentences, but the last; other chunks
            are originals only. None: sentences of a third author stand in.
    """

    def __init__(self, chunks: Sequence[Chunk], seed: int, refills: Mapping[str, Sequence[str]] | None = None) -> None:
        self.rng, self.refills = Random(f"pairs {seed}"), refills
        self.subjects = self.mixable = _comparable(chunks)
        if refills is not None:
            self.mixable = _comparable([chunk for chunk in chunks if chunk.name in refills])
        self.used: Counter[str] = Counter()
        self.sentences = {chunk.name: len(_sentences(chunk)) for chunk in chunks}
        self.made: set[tuple[str, ...]] = set()

    def pairs(self, count: int, scores: Sequence[float] = BINS) -> list[Pair]:
        """Pairs, as many of every score and subject as there can be.

        Args:
            count: of all; there are fewer where the chunks do not give so many.
            scores: that pairs have; 0 and 1 are those of originals.
        """
        places = [(subject, score) for score in scores for subject in self.subjects]
        found: list[Pair] = []
        while places and len(found) < count:
            for place in tuple(places):
                if (pair := self._pair(*place)) is None:
                    places.remove(place)
                elif len(found) < count:
                    found.append(pair)
        self.rng.shuffle(found)
        return found

    def _pair(self, subject: str, score: float) -> Pair | None:
        """A new pair of a score; None where none is found."""
        authors = (self.subjects if score in ORIGINALS else self.mixable).get(subject, {})
        same = score > 0.5
        if len(authors) < (1 if same else 2):
            return None
        for _ in range(_TRIES):
            two = self._same(authors) if same else self._cross(authors)
            if two is not None and (pair := self._graded(authors, two, score)) is not None:
                return pair
        return None

    def _same(self, authors: Mapping[str, list[Chunk]]) -> tuple[Chunk, Chunk] | None:
        """Two chunks of one author: of two books, or of one with a quarter of it between them."""
        chunks = authors[self.rng.choice(list(authors))]
        first = self._choose(chunks)
        others = [chunk for chunk in chunks if chunk.title != first.title]
        if not others:
            apart = max(len(chunks) // 4, 1)
            others = [chunk for chunk in chunks if abs(chunk.number - first.number) > apart]
        return (first, self._choose(others)) if others else None

    def _cross(self, authors: Mapping[str, list[Chunk]]) -> tuple[Chunk, Chunk]:
        one, other = self.rng.sample(list(authors), 2)
        return self._choose(authors[one]), self._choose(authors[other])

    def _choose(self, chunks: Sequence[Chunk]) -> Chunk:
        """The chunk that was used least of a few."""
        few = self.rng.choices(chunks, k=_CANDIDATES)
        return min(few, key=lambda chunk: self.used[chunk.name])

    def _graded(self, authors: Mapping[str, list[Chunk]], two: tuple[Chunk, Chunk], score: float) -> Pair | None:
        first, second = two
        counts = (0, 0)
        if score not in ORIGINALS:
            ways = replaceable(self.sentences[first.name], self.sentences[second.name], score > 0.5, score)
            if not ways:
                return None
            counts = self.rng.choice(ways)
        key = (*sorted((f"{first.name}/{counts[0]}", f"{second.name}/{counts[1]}")),)
        texts = (first.text, second.text) if counts == (0, 0) else self._replaced(authors, two, counts)
        if key in self.made or texts is None:
            return None
        self.made.add(key)
        self.used.update((first.name, second.name))
        labels = (first.author, second.author) if counts == (0, 0) else None
        return Pair(*texts, score, self._meta(first, second, counts), labels)

    def _replaced(
        self, authors: Mapping[str, list[Chunk]], two: tuple[Chunk, Chunk], counts: tuple[int, int]
    ) -> tuple[str, str] | None:
        """Both texts with sentences replaced: by those of a third author, or of each other where there is none."""
        if self.refills is not None:
            first, second = (
                refilled(chunk.text, self.refills[chunk.name], count) for chunk, count in zip(two, counts, strict=True)
            )
            return first, second
        others = [author for author in authors if author not in {chunk.author for chunk in two}]
        if not others and two[0].author == two[1].author:
            return None
        third = authors[self.rng.choice(others)] if others else []
        fillers = [self.rng.choice(third) for _ in two] if third else [two[1], two[0]]
        texts = (
            mixed(chunk.text, _sentences(filler), count, self.rng)
            for chunk, filler, count in zip(two, fillers, counts, strict=True)
        )
        return next(texts), next(texts)

    def _meta(self, first: Chunk, second: Chunk, counts: tuple[int, int]) -> dict[str, object]:
        kind = KINDS[(first.author != second.author) + 2 * (counts != (0, 0))]
        meta: dict[str, object] = {"kind": kind, "subject": first.subject}
        for number, (chunk, count) in enumerate(zip((first, second), counts, strict=True)):
            mark = "2" if number else ""
            meta |= {f"author{mark}": chunk.author, f"title{mark}": chunk.title, f"chunk{mark}": chunk.name}
            meta |= {f"replaced{mark}": count / self.sentences[chunk.name]}
        return meta


def _comparable(chunks: Iterable[Chunk]) -> dict[str, dict[str, list[Chunk]]]:
    """Subject -> author -> chunks; all of one subject where no subject has two authors."""
    subjects = {subject: grouped(found, "author") for subject, found in grouped(chunks, "subject").items()}
    if subjects and max(map(len, subjects.values())) < 2:
        every = [chunk for authors in subjects.values() for found in authors.values() for chunk in found]
        return {"any": grouped(every, "author")}
    return subjects


def _sentences(chunk: Chunk) -> list[str]:
    return [sentence for part in chunk.text.split("\n\n") for sentence in sentences_of(part)]


# --- leakage ----------------------------------------------------------------------------------------------------------


def check_leakage(train: Sequence[Pair], held_out: Sequence[Pair], authors: bool, name: str = "test") -> None:
    """See that nothing of a held-out split is in training: no chunk, no long sentence, and if asked for no author.

    Args:
        train: pairs of training.
        held_out: pairs of the other split.
        authors: whether their authors must differ.
        name: of the other split.

    Raises:
        UserError: naming the first author, chunk or sentence that is in both.
    """
    kinds = ("author", "author2") if authors else ()
    for keys in (kinds, ("chunk", "chunk2")):
        known = {pair.meta[key] for pair in train for key in keys}
        if both := sorted({pair.meta[key] for pair in held_out for key in keys} & known):
            raise UserError(
                f"leakage: '{both[0]}' is in the pairs of train and of {name}: a judge would be examined on what it "
                "has learned; keep the splits apart"
            )
    texts = {text for pair in train for text in (pair.text, pair.other)}
    known_sentences = {sentence for text in texts for sentence in long_sentences(text)}
    for text in {text for pair in held_out for text in (pair.text, pair.other)}:
        if both_sentences := sorted(long_sentences(text) & known_sentences):
            raise UserError(
                f"leakage: a sentence of the pairs of {name} is in train too: {both_sentences[0][:80]!r}; take it, or "
                "the second book that has it, out"
            )
