"""Words and n-grams of texts, measures of variety and copying, texts that are not Unicode, and what tokenizers append.

Words are compared in small letters and without punctuation. Every share of nothing is 0 unless a caller says otherwise.
"""

import math
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from lit_narrative.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase  # slow to import; tools that read worlds do without it

    from lit_narrative.views import Rollout

ASKED = "asked"
"""Column of a few-shot prompt: the prompt without what stands before it."""

Item = TypeVar("Item", str, int)
# Letters of any script: \w without digits and the underscore.
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


# What ends a sentence, the quotes and brackets that close after it, and white space with no small letter behind it.
_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’»)\]_]*\s+(?![\"'“‘«(\[_]*[^\W\d_A-ZÀ-Þ])")
_TITLES = "mr mrs messrs ms dr st rev hon prof capt col gen lieut lt sergt maj esq jr sr no vol"
_ABBREVIATIONS = frozenset(_TITLES.split())


# A lone half of a surrogate pair: a JSON escape or Python can make it, and no encoding of Unicode has a form for it.
_HALVES = re.compile("[\ud800-\udfff]")


def unicode_text(text: str) -> str:
    """The text with U+FFFD in place of each lone surrogate, as decoders put it for what is not Unicode."""
    return text if text.isascii() else _HALVES.sub("\N{REPLACEMENT CHARACTER}", text)


def is_unicode(text: str) -> bool:
    """Whether there is no lone surrogate in a text."""
    return text.isascii() or _HALVES.search(text) is None


def appended_tokens(tokenizer: "PreTrainedTokenizerBase") -> int:
    """How many tokens a tokenizer puts behind every text (``<s> $A </s>``: 1); a prompt to continue is without them."""
    ids, plain = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
    ends = range(len(ids), len(plain) - 1, -1) if plain else ()
    return next((len(ids) - end for end in ends if ids[end - len(plain) : end] == plain), 0)


def words_of(text: str) -> list[str]:
    """The words of a text in small letters; an apostrophe inside a word is part of it."""
    return _WORD.findall(text.casefold())


def sentences_of(text: str) -> list[str]:
    """The sentences of a paragraph in order, without the white space between them.

    A sentence ends at ``. ! ? …`` where white space and no small letter follows; not behind a title or an initial
    (``Mr. Holm``, ``J. Holm``).
    """
    found, start = [], 0
    for end in _SENTENCE_END.finditer(text):
        word = text[max(start, end.start() - 8) : end.start()].rpartition(" ")[2].lstrip("\"'“‘(_")
        if text[end.start()] == "." and (
            word.casefold() in _ABBREVIATIONS or (len(word) == 1 and word.isupper() and word not in "IO")
        ):
            continue
        found.append(text[start : end.end()].rstrip())
        start = end.end()
    rest = text[start:].strip()
    return [*found, rest] if rest else found


def distinct_n(texts: Sequence[str], n: int, samples: int | None = None) -> float:
    """Distinct n-grams over all n-grams of the texts together (Li et al. 2016).

    The share falls with the number of texts, so values compare only at one number of ``samples``: the result is then
    the mean over consecutive groups of so many texts, and a smaller last group is not counted.

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
    """Share of a text's n-grams of words that occurred earlier in it, mean over texts."""
    return fmean(1 - distinct_share(ngrams(words_of(text), n), empty=1.0) for text in texts) if texts else 0.0


def self_bleu(texts: Sequence[str], n: int = 4, most: int = 100) -> float:
    """Mean BLEU-n of each text against all others (Zhu et al. 2018): 1 where all are the same, 0 of fewer than two.

    Counts are smoothed by one (Lin and Och 2004). The cost grows with the square of the texts, so only the first
    ``most`` are read.
    """
    # Imported here: torchmetrics takes seconds, and the commands that score worlds need no more than words.
    from torchmetrics.functional.text import bleu_score

    read = [" ".join(words_of(text)) for text in texts[:most]]
    if len(read) < 2:
        return 0.0
    pairs = ((text, [*read[:index], *read[index + 1 :]]) for index, text in enumerate(read))
    return fmean(float(bleu_score([text], [others], n_gram=n, smooth=True)) for text, others in pairs)


def ngrams(items: Sequence[Item], n: int) -> list[tuple[Item, ...]]:
    """All runs of n words, or token ids, in order."""
    return [tuple(items[start : start + n]) for start in range(len(items) - n + 1)]


def distinct_share(grams: Iterable[Hashable], empty: float = 0.0) -> float:
    """Distinct n-grams over all of them; ``empty`` where there are none."""
    every = list(grams)
    return len(set(every)) / len(every) if every else empty


# --- copying ----------------------------------------------------------------------------------------------------------


class WordBits:
    """Information of words under their frequencies in some texts, in bits; a word that they lack counts as seen once.

    Args:
        texts: to count in, such as the sources of the training rows.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._counts = Counter(word for text in texts for word in words_of(text))
        # One is added to every count, with one place for all words that were never seen (Laplace).
        self._total = sum(self._counts.values()) + len(self._counts) + 1

    def __call__(self, words: Iterable[str]) -> float:
        """Bits of words that are drawn one by one."""
        return sum(math.log2(self._total / (self._counts[word] + 1)) for word in words)


def longest_copy(text: str, source: str, bits: WordBits) -> tuple[str, ...]:
    """The span of words that stands in both texts and is worth most bits; empty where they share no word.

    By bits and not by length: to copy "of the" is nothing, to copy a name is much.
    """
    words, others = words_of(text), words_of(source)
    places: dict[str, list[int]] = {}
    for place, word in enumerate(others):
        places.setdefault(word, []).append(place)
    best, span = 0.0, (0, 0)
    ending: dict[int, int] = {}  # place in the source -> length of the common span that ends there
    for end, word in enumerate(words):
        ending = {place: ending.get(place - 1, 0) + 1 for place in places.get(word, ())}
        longest = max(ending.values(), default=0)
        worth = bits(words[end + 1 - longest : end + 1])
        if worth > best:
            best, span = worth, (end + 1 - longest, end + 1)
    return tuple(words[slice(*span)])


class CopyIndex:
    """Texts to look copies up in, by word: to compare one text with all of them takes milliseconds.

    Args:
        texts: that may be copied from.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        places: dict[str, list[int]] = {}
        self._size = 1  # place 0 stays empty, and so does one behind each text: no span goes on from text to text
        for text in texts:
            for word in words_of(text):
                places.setdefault(word, []).append(self._size)
                self._size += 1
            self._size += 1
        self._places: dict[str, npt.NDArray[np.intp]] = {word: np.array(found) for word, found in places.items()}

    def longest(self, text: str, bits: WordBits) -> tuple[str, ...]:
        """The span of words that stands in one of the texts too and is worth most bits, as `longest_copy`."""
        words, worths = words_of(text), [0.0]
        for word in words:
            worths.append(worths[-1] + bits([word]))
        best, span = 1e-9, (0, 0)  # rounding of the sums must not make a span out of none
        lengths = np.zeros(self._size, dtype=np.intp)  # of the common span that ends at each place
        before, none = np.zeros(0, dtype=np.intp), np.zeros(0, dtype=np.intp)
        for end, word in enumerate(words, 1):
            places = self._places.get(word, none)
            found = lengths[places - 1] + 1
            lengths[before] = 0
            lengths[places] = found
            before = places
            start = end - int(found.max(initial=0))
            if worths[end] - worths[start] > best:
                best, span = worths[end] - worths[start], (start, end)
        return tuple(words[slice(*span)])


def asked(rollout: "Rollout") -> str:
    """The prompt that a rollout answers, without the examples that a few-shot prompt shows before it."""
    return str(rollout.columns.get(ASKED, rollout.prompt))
