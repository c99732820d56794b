"""FIXME."""

import re
from collections.abc import Iterable, Sequence
from statistics import fmean

from lit_narrative.errors import UserError

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


def words_of(text: str) -> list[str]:
    """The words of a text in small letters; an apostrophe inside a word is part of it."""
    return _WORD.findall(text.casefold())


# --- variety ----------------------------------------------------------------------------------------------------------


def distinct_n(texts: Sequence[str], n: int, samples: int | None = None) -> float:
    """Distinct n-grams over all n-grams of the texts together (Li et al. 2016).

    It falls with the number of texts, so figures compare only at one number of ``samples``: then it is the mean over
    consecutive groups of so many texts, and what is left over is not counted.

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
    """Share of a text's n-grams of words that it has had before, mean over texts."""
    grams = [ngrams(words_of(text), n) for text in texts]
    return fmean(1 - distinct_share(own) if own else 0.0 for own in grams) if texts else 0.0


def self_bleu(texts: Sequence[str], n: int = 4, most: int = 100) -> float:
    """BLEU-n of each text against all others, mean (Zhu et al. 2018): 1 where all are the same; 0 of fewer than two.

    Counts are smoothed by one (Lin and Och 2004). The cost grows with the square of the texts, so only the first
    ``most`` are read.
    """
    from torchmetrics.functional.text import bleu_score

    read = [" ".join(words_of(text)) for text in texts[:most]]
    if len(read) < 2:
        return 0.0
    pairs = ((own, [*read[:place], *read[place + 1 :]]) for place, own in enumerate(read))
    return fmean(float(bleu_score([own], [others], n_gram=n, smooth=True)) for own, others in pairs)


def ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """All runs of n words, in order."""
    return [tuple(words[place : place + n]) for place in range(len(words) - n + 1)]


def distinct_share(grams: Iterable[tuple[str, ...]]) -> float:
    """Distinct n-grams over all of them."""
    every = list(grams)
    return len(set(every)) / max(len(every), 1)
