"""Words and phrases that a model uses more often than the people whose texts it learned from, by log-odds.

Models that are rewarded fall back on what pleases: the same words in every text. The measure needs no list of such
words; it finds them by comparison with human text (Monroe et al. 2008, "Fightin' Words", eq. 22, with an informative
Dirichlet prior).
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from lit_narrative.report.intervals import Floats, Resamples
from lit_narrative.text import ngrams, words_of

Phrase = tuple[str, ...]
LONGEST = 3
"""Words of the longest phrase that is counted."""
_OVER_USED = 3.0  # z: one in 700 by chance
_PRIOR = 0.1  # of the counts of both sides
_SHOWN = 20


def phrases(text: str) -> list[Phrase]:
    """All runs of 1 to `LONGEST` words of a text."""
    words = words_of(text)
    return [gram for size in range(1, LONGEST + 1) for gram in ngrams(words, size)]


def log_odds(model: Mapping[Phrase, int], human: Mapping[Phrase, int]) -> dict[Phrase, float]:
    """The z of the log-odds ratio of each phrase of a model's texts, above 0 where they use it more often.

    Phrases compare with those of their own length. With counts y of n phrases and a prior a of 0.1 of both counts (in
    all a0), z = (log o1 - log o2) / sqrt(1 / (y1 + a) + 1 / (y2 + a)), where o = (y + a) / (n + a0 - y - a).
    """
    sizes = range(1, LONGEST + 1)
    ours = {size: sum(count for phrase, count in model.items() if len(phrase) == size) for size in sizes}
    theirs = {size: sum(count for phrase, count in human.items() if len(phrase) == size) for size in sizes}
    found: dict[Phrase, float] = {}
    for phrase, count in model.items():
        other, size = human.get(phrase, 0), len(phrase)
        prior, all_prior = _PRIOR * (count + other) + _PRIOR, _PRIOR * (ours[size] + theirs[size]) + 2 * _PRIOR
        first = _log_odd(count + prior, ours[size] + all_prior)
        second = _log_odd(other + prior, theirs[size] + all_prior)
        found[phrase] = (first - second) / math.sqrt(1 / (count + prior) + 1 / (other + prior))
    return found


def _log_odd(count: float, total: float) -> float:
    # One phrase may be all there is: its odds are then finite all the same.
    return math.log(count / max(total - count, 1e-9))


def count_phrases(texts: Iterable[str]) -> Counter[Phrase]:
    """Counts of all phrases of texts."""
    return Counter(phrase for text in texts for phrase in phrases(text))


def over_used(model: Mapping[Phrase, int], human: Mapping[Phrase, int]) -> dict[Phrase, float]:
    """The phrases with z of 3 or more, largest first."""
    found = {phrase: z for phrase, z in log_odds(model, human).items() if z >= _OVER_USED}
    return dict(sorted(found.items(), key=lambda entry: (-entry[1], entry[0])))


def slop_scores(
    resamples: Resamples, texts: Sequence[str], documents: Sequence[str], human: Sequence[str]
) -> dict[str, Any]:
    """How much of the texts is over-used phrases, beyond what human texts have of them.

    ``slop``: share of a text's phrases that are over-used ones, less their share in human text; 0 is human, and at most
    1. Phrases are found in one half of the documents and counted in the other, so that what is rare and happened to
    come up does not count. ``over_used``: the first of them, found in all texts, as [phrase, z].

    Args:
        resamples: of the set's documents.
        texts: n of a model.
        documents: (n,) of each; halves are made of whole documents.
        human: texts to compare with.
    """
    people = count_phrases(human)
    places = {name: place for place, name in enumerate(dict.fromkeys(documents))}
    half = np.array([places[name] % 2 for name in documents])
    shares = np.zeros(len(texts))
    for side in (0, 1):
        listed = over_used(count_phrases(text for text, at in zip(texts, half, strict=True) if at != side), people)
        usual = _share(people, listed)
        for row in np.flatnonzero(half == side).tolist():
            shares[row] = _excess(texts[row], listed, usual)
    shown = list(over_used(count_phrases(texts), people).items())[:_SHOWN]
    return {**resamples.mean("slop", shares), "over_used": [[" ".join(phrase), round(z, 2)] for phrase, z in shown]}


def _excess(text: str, listed: Mapping[Phrase, float], usual: float) -> float:
    counts = Counter(phrases(text))
    return _share(counts, listed) - usual if counts else 0.0


def _share(counts: Mapping[Phrase, int], listed: Mapping[Phrase, float]) -> float:
    return sum(counts.get(phrase, 0) for phrase in listed) / max(sum(counts.values()), 1)


def diversity_scores(resamples: Resamples, texts: Sequence[str], groups: Sequence[str]) -> dict[str, Any]:
    """``diversity``: 1 less the share of a text's three-word phrases that another text of its group has, 0 to 1.

    The share is the mean over the other texts, so that it does not fall as more are sampled; a text alone in its group
    is left out.

    Args:
        resamples: of the set's documents.
        texts: n of them.
        groups: (n,) such as the author named.
    """
    grams = [set(ngrams(words_of(text), LONGEST)) for text in texts]
    values, known = np.zeros(len(texts)), np.zeros(len(texts))
    for name in dict.fromkeys(groups):
        rows = [row for row, group in enumerate(groups) if group == name]
        counts = Counter(gram for row in rows for gram in grams[row])
        for row in rows:
            if len(rows) > 1:
                known[row], values[row] = 1.0, 1 - _shared(grams[row], counts, len(rows) - 1)
    return resamples.ratio("diversity", values, known)


def _shared(grams: set[Phrase], counts: Mapping[Phrase, int], others: int) -> float:
    """Mean share of the phrases of a text that another one has; a text without any has nothing of its own."""
    return sum(counts[gram] - 1 for gram in grams) / (others * len(grams)) if grams else 1.0


def means(resamples: Resamples, columns: Mapping[str, Sequence[float | None]]) -> dict[str, Any]:
    """The mean of each column over the rows that have a value."""
    scores: dict[str, Any] = {}
    for name, column in columns.items():
        known: Floats = np.array([float(value is not None) for value in column])
        scores |= resamples.ratio(name, np.array([value or 0.0 for value in column]), known)
    return scores
