"""Likeness to authors under a style judge: of texts, of their windows, and where one plot is told in two styles.

A judge here is a function from texts to vectors, so that a trained encoder and a table made by hand are alike. Texts
are compared with an author's held-out chunks, all of them: one chunk alone is a noisy target.

Notation: n texts, A authors, d width of a vector.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from lit_narrative.report.intervals import Floats, Resamples

Embed = Callable[[Sequence[str]], Any]
"""A judge: n texts to vectors (n, d), an array or a tensor on the CPU; zeros for a text without words."""
Numbers = npt.NDArray[np.intp]


class StyleReferences:
    """The held-out chunks of authors under one judge.

    Args:
        embed: the judge.
        chunks: held-out chunks of each author, at least one of each.

    Attributes:
        authors: names, in the order of the columns of `likeness`.
        same: mean cosine between chunks of one author; NaN where each author has a single chunk.
        other: mean cosine between chunks of different authors; NaN with a single author.
    """

    def __init__(self, embed: Embed, chunks: Mapping[str, Sequence[str]]) -> None:
        self.embed, self.authors = embed, tuple(chunks)
        every = [text for texts in chunks.values() for text in texts]
        owners = np.repeat(np.arange(len(self.authors)), [len(texts) for texts in chunks.values()])
        self._rows = {text: row for row, text in enumerate(every)}
        self._vectors = unit(embed(every))
        self._members = (owners[:, None] == np.arange(len(self.authors))).astype(float)
        cosines, alike = self._vectors @ self._vectors.T, owners[:, None] == owners
        self.same = _mean(cosines[alike & ~np.eye(len(owners), dtype=bool)])
        self.other = _mean(cosines[~alike])

    def likeness(self, texts: Sequence[str], shown: Sequence[str | None] = ()) -> Floats:
        """(n, A) mean cosine of each text with the chunks of each author, -1 to 1.

        Args:
            texts: n of them.
            shown: (n,) a chunk that stood in the prompt and is left out of the mean, or None; none: no chunk did.
        """
        if not texts:
            return np.zeros((0, len(self.authors)))
        cosines = unit(self.embed(texts)) @ self._vectors.T
        counted = np.ones_like(cosines)
        for row, chunk in enumerate(shown):
            if chunk in self._rows:
                counted[row, self._rows[chunk]] = 0.0
        likeness: Floats = (cosines * counted) @ self._members / np.maximum(counted @ self._members, 1.0)
        return likeness

    def columns(self, authors: Sequence[str]) -> Numbers:
        """(n,) the column of each author's name."""
        return np.array([self.authors.index(author) for author in authors], dtype=np.intp)


def unit(vectors: Any) -> Floats:
    """Vectors (n, d) at length 1, in float64; zeros stay zeros, and what is not finite becomes zeros."""
    wide = np.asarray(vectors, dtype=np.float64)
    wide = np.where(np.isfinite(wide).all(-1, keepdims=True), wide, 0.0)
    length = np.linalg.norm(wide, axis=-1, keepdims=True)
    return np.divide(wide, length, out=np.zeros_like(wide), where=length > 0)


def _mean(values: Floats) -> float:
    return float(values.mean()) if values.size else float("nan")


def likeness_columns(name: str, references: StyleReferences, likeness: Floats, own: Numbers) -> dict[str, list[float]]:
    """Figures of each text that was asked for in the style of one author.

    ``<name>``: mean cosine with the held-out chunks of the author named. ``<name>_scaled``: the same where 0 is what
    chunks of other authors have and 1 what the author's own have, so that judges compare. ``<name>_margin``: the cosine
    less its mean over the other authors. ``<name>_identified``: 1 where the author named is the nearest; at random it
    is in 1 / A of the texts.

    Args:
        name: of the judge.
        references: its chunks.
        likeness: (n, A).
        own: (n,) column of the author named.
    """
    named = own_likeness(likeness, own)
    columns = {name: named}
    if (span := references.same - references.other) > 0:
        columns[f"{name}_scaled"] = (named - references.other) / span
    if (others := len(references.authors) - 1) > 0:
        columns[f"{name}_margin"] = named - (likeness.sum(1) - named) / others
        columns[f"{name}_identified"] = (likeness.argmax(1) == own).astype(float)
    return {key: values.tolist() for key, values in columns.items()}


def own_likeness(likeness: Floats, own: Numbers) -> Floats:
    """(n,) the likeness to the author named."""
    return likeness[np.arange(len(own)), own]


def topic_swap(name: str, likeness: Floats, own: Numbers, plots: Sequence[str]) -> dict[str, Any]:
    """Share of pairs, one plot told in the style of two authors, in which each text follows the author it was told.

    The topic is the same in both, so that it cannot help: a pair counts where the texts are more like the authors named
    than like these exchanged. Equal counts one half; at random the share is 0.5.

    Args:
        name: of the figure; its interval is over plots, and ``<name>_n`` counts pairs.
        likeness: (n, A).
        own: (n,) column of the author named.
        plots: (n,) of each text.
    """
    rows: dict[str, list[int]] = {}
    for row, plot in enumerate(plots):
        rows.setdefault(plot, []).append(row)
    pairs = [(plot, *pair) for plot, found in rows.items() for pair in combinations(found, 2)]
    pairs = [pair for pair in pairs if own[pair[1]] != own[pair[2]]]
    if not pairs:
        return {name: None, f"{name}_ci": None, f"{name}_n": 0}
    first, second = (np.array([pair[place] for pair in pairs]) for place in (1, 2))
    as_told = likeness[first, own[first]] + likeness[second, own[second]]
    gains = as_told - likeness[first, own[second]] - likeness[second, own[first]]
    hits = np.where(np.abs(gains) < 1e-12, 0.5, (gains > 0).astype(float))
    return {**Resamples([pair[0] for pair in pairs]).mean(name, hits), f"{name}_n": len(pairs)}


# --- along the text ---------------------------------------------------------------------------------------------------


def windows(text: str, words: int) -> list[str]:
    """Consecutive windows of a text, each of so many words; a rest of less than half a window joins the last one."""
    found = text.split()
    count = max(1, round(len(found) / words))
    edges = [place * words for place in range(count)] + [len(found)]
    return [" ".join(found[start:end]) for start, end in pairwise(edges)]


def drift_scores(
    resamples: Resamples,
    name: str,
    references: StyleReferences,
    texts: Sequence[str],
    own: Numbers,
    words: int,
    shown: Sequence[str | None] = (),
) -> dict[str, Any]:
    """How style changes along texts: likeness to the author named by window, over texts that have such a window.

    ``<name>_window_<k>``: of the k-th, from 1. ``<name>_drift``: of the last window less the first, over texts of two
    windows or more; below 0 where the style is lost on the way.

    Args:
        resamples: of the set's documents.
        name: of the judge.
        references: its chunks.
        texts: n of them.
        own: (n,) column of the author named.
        words: of a window.
        shown: as of `StyleReferences.likeness`.
    """
    parts = [windows(text, words) for text in texts]
    counts = [len(part) for part in parts]
    chunks = [chunk for chunk, count in zip(shown, counts, strict=bool(shown)) for _ in range(count)]
    likeness = references.likeness([window for part in parts for window in part], chunks)
    rows = np.split(own_likeness(likeness, np.repeat(own, counts)), np.cumsum(counts)[:-1])
    scores: dict[str, Any] = {}
    for place in range(max((len(row) for row in rows), default=0)):
        there = np.array([float(len(row) > place) for row in rows])
        found = np.array([row[place] if len(row) > place else 0.0 for row in rows])
        scores |= resamples.ratio(f"{name}_window_{place + 1}", found, there)
    several = np.array([float(len(row) > 1) for row in rows])
    return scores | resamples.ratio(f"{name}_drift", np.array([row[-1] - row[0] for row in rows]), several)


# --- two judges -------------------------------------------------------------------------------------------------------


def hacked(trained_on: Sequence[float], reported_on: Sequence[float]) -> bool:
    """Whether the judge that was trained on rose and the other did not: the alarm of a judge that is being fooled.

    Args:
        trained_on: lower and upper bound of the change under the judge of the reward.
        reported_on: the same under a judge that training did not see.
    """
    return trained_on[0] > 0 and reported_on[0] <= 0
