"""Words and n-grams of texts, measures of variety made of them, texts that are not Unicode, and what tokenizers append.

Words are compared in small letters and without punctuation. Every share of nothing is 0 unless a caller says otherwise.
"""

import re
from collections.abc import Hashable, Iterable, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, TypeVar

from lit_narrative.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase  # slow to import; tools that read worlds do without it

Item = TypeVar("Item", str, int)
# Letters of any script: \w without digits and the underscore.
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


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
