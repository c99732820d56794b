"""What texts take from the author's own: copied spans, the nearest source, and names of its characters.

The easiest way to sound like an author is to quote one: a judge of style pays for it, and these figures show it.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import cached_property
from statistics import fmean

from lit_narrative.text import CopyIndex, WordBits, ngrams, words_of

GRAM = 5
"""Words of the runs by which the nearest source is found: such a run is seldom shared by chance."""
_CAPITAL = re.compile(r"(?<=[\w,;] )[A-Z][a-z]+\b")
_LEAST = 3
_WORDS = """
    Mr Mrs Ms Miss Mister Master Dr Doctor Sir Madam Madame Lady Lord Lords Captain Colonel General Major Judge Reverend
    Saint St God Christ Christian Christians Christmas Easter Bible Heaven Providence
    Monday Tuesday Wednesday Thursday Friday Saturday Sunday January February March April May June July August September
    October November December
    English Englishman Englishmen French Frenchman Frenchmen German Germans Italian Italians Spanish Dutch Irish
    Irishman Scotch Swiss Turk Turks Greek Greeks Roman Romans Latin American Americans Indian Indians European Arabian
    England Britain Scotland Ireland France Germany Italy Spain Switzerland Greece Russia Europe Africa Asia America
    Americas Union United States London Paris Rome
"""
COMMON_NAMES = frozenset(_WORDS.split())
"""Titles, days, months, peoples and large places: words of everybody's, that give no source away."""


class Sources:
    """The chunks of one author, which texts in the author's style may have been copied from.

    Args:
        chunks: of the author.
        bits: information of words; None: under their frequencies in these chunks.
    """

    def __init__(self, chunks: Sequence[str], bits: WordBits | None = None) -> None:
        self._chunks = tuple(chunks)
        self.bits = bits or WordBits(self._chunks)

    @cached_property
    def names(self) -> AbstractSet[str]:
        """Names of characters and places: what is written with a capital inside of sentences, and never without."""
        return proper_names(self._chunks)

    def longest(self, text: str) -> tuple[str, ...]:
        """The span of words that the text shares with a chunk and that is worth most bits."""
        return self._index.longest(text, self.bits)

    def nearest(self, text: str) -> float:
        """The largest share of the text's runs of `GRAM` words that stand in a single chunk, 0 to 1."""
        grams = ngrams(words_of(text), GRAM)
        found = Counter(chunk for gram in grams for chunk in self._grams.get(gram, ()))
        return max(found.values(), default=0) / max(len(grams), 1)

    @cached_property
    def _index(self) -> CopyIndex:
        return CopyIndex(self._chunks)

    @cached_property
    def _grams(self) -> dict[tuple[str, ...], set[int]]:
        found: dict[tuple[str, ...], set[int]] = {}
        for number, chunk in enumerate(self._chunks):
            for gram in ngrams(words_of(chunk), GRAM):
                found.setdefault(gram, set()).add(number)
        return found


def proper_names(texts: Sequence[str], least: int = _LEAST) -> AbstractSet[str]:
    """Words that texts write with a capital inside of sentences, so many times or more, and never in small letters.

    Those that are everybody's (`COMMON_NAMES`) are left out.
    """
    inside = Counter(word for text in texts for word in _CAPITAL.findall(text))
    small = {word for text in texts for word in re.findall(r"\b[a-z]+\b", text)}
    known = (word for word, count in inside.items() if count >= least and word.lower() not in small)
    return {word for word in known if word not in COMMON_NAMES}


def copy_columns(
    texts: Sequence[str], authors: Sequence[str], sources: Mapping[str, Sources]
) -> dict[str, list[float]]:
    """How much each text takes from the chunks of the author named.

    ``copied_span``: bits of the longest copied span; ``copied_words``: its length. ``nearest_source``: share of the
    runs of five words that stand in the one chunk that has most of them. ``names_source``: 1 where a character or a
    place of the source is named, else 0.

    Args:
        texts: n of them.
        authors: (n,) whose style each text was asked for.
        sources: of each author.
    """
    columns: dict[str, list[float]] = {
        name: [] for name in ("copied_span", "copied_words", "nearest_source", "names_source")
    }
    for text, author in zip(texts, authors, strict=True):
        source = sources[author]
        span = source.longest(text)
        columns["copied_span"].append(source.bits(span))
        columns["copied_words"].append(float(len(span)))
        columns["nearest_source"].append(source.nearest(text))
        columns["names_source"].append(float(names_one(text, source.names)))
    return columns


def human_span(chunks: Mapping[str, Sequence[str]], sources: Mapping[str, Sources]) -> float:
    """Mean bits of the longest span that chunks share with other texts of their author: an author repeats things, too.

    Args:
        chunks: of each author, at least one in all.
        sources: without these chunks.
    """
    return fmean(sources[a].bits(sources[a].longest(text)) for a, texts in chunks.items() for text in texts)


def names_one(text: str, names: AbstractSet[str]) -> bool:
    """Whether a text holds one of some names, as whole words with their capital."""
    return not names.isdisjoint(re.findall(r"\b[A-Z][a-z]+\b", text))
