"""The examination of a judge of style, before anything is trained against it.

A judge can tell the chunks of held-out books apart by what they are about. So it is examined twice: on the texts, and
on the texts without their topic (`masking.mask`). Beside it stand measures that were never trained; a judge that is no
better than they are on masked text is not fit to be trained against.

Notation: n pairs, R resamples of documents.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from lit_narrative.tasks.style.agreement import Floats, PairResamples, auroc, equal_error_rate, rank_correlation
from lit_narrative.tasks.style.baselines import Similarity, baselines
from lit_narrative.tasks.style.masking import mask
from lit_narrative.views import Pair

JUDGE = "judge"
_TITLES, _CHUNKS = ("title", "title2"), ("chunk", "chunk2")
CEILING = 0.99
"""AUROC from which on a judge is as good as any: there what a baseline is above it by are a few pairs."""
FEW_DOCUMENTS = 4
"""Books below which intervals are over chunks: two books drawn with replacement are no sample of books."""


@dataclass(frozen=True)
class Examination:
    """What is known of a judge.

    Attributes:
        sets: set -> ``judge`` or a baseline -> figures: ``auroc``, ``eer`` and ``spearman``, and the same with
            ``_masked``, each with its interval over documents as ``_ci``. A baseline has too how far the judge is
            above it: ``judge_above`` and ``judge_above_masked``, in AUROC.
        fit: whether something may be trained against it.
        why: what speaks against it, a sentence each; what speaks for it where nothing does.
    """

    sets: Mapping[str, Mapping[str, Any]]
    fit: bool
    why: Sequence[str]

    def record(self) -> dict[str, Any]:
        """Plain values for a file."""
        return {"fit": self.fit, "why": list(self.why), "sets": self.sets}


class HeldOut(NamedTuple):
    """Held-out pairs; their ``title`` and ``title2`` tell the documents, ``author`` and ``author2`` who wrote them.

    Attributes:
        originals: pairs of whole chunks, of score 1 if one author wrote both, else 0: AUROC and error rate are of them.
        graded: pairs of any score, which the rank correlation is of.
        decides: whether a baseline that is above the judge here makes it unfit; otherwise that is noted.
    """

    originals: Sequence[Pair]
    graded: Sequence[Pair]
    decides: bool = True


def examine(judge: Similarity, sets: Mapping[str, HeldOut], training: Sequence[str]) -> Examination:
    """Examine a judge on held-out pairs.

    Args:
        judge: what it finds alike.
        sets: by name, such as ``books`` (other books of authors it learned from) and ``authors`` (such as it never
            read); a set without pairs is left out.
        training: texts from which baselines take their norm.
    """
    measures = {JUDGE: judge, **baselines(training)}
    masked = {JUDGE: judge, **baselines([mask(text) for text in training])}
    figures = {name: _examined(held, measures, masked) for name, held in sets.items() if len(held.originals)}
    against = [reason for name, found in figures.items() for reason in _chance(name, found)]
    against += [reason for name, found in figures.items() if sets[name].decides for reason in _beaten(name, found)]
    if not figures:
        against = ["there are no held-out pairs to examine it on"]
    notes = [note for name, found in figures.items() if not sets[name].decides for note in _beaten(name, found)]
    notes += [note for name, found in figures.items() for note in _few(name, found)]
    for_it = [f"{name}: no baseline is above it on masked text" for name in figures if sets[name].decides]
    return Examination(figures, not against, [*(against or for_it), *notes])


class _Pairs(NamedTuple):
    """Pairs as arrays.

    Attributes:
        sides: the first and the second texts.
        scores: (n,).
        resamples: of their books, or of their chunks where there are few.
        documents: how many books they are of.
    """

    sides: tuple[list[str], list[str]]
    scores: Floats
    resamples: PairResamples
    documents: int

    @classmethod
    def of(cls, pairs: Sequence[Pair]) -> "_Pairs":
        books = _sources(pairs, _TITLES)
        count = len({book for side in books for book in side})
        resamples = PairResamples(*(books if count >= FEW_DOCUMENTS else _sources(pairs, _CHUNKS)))
        sides = [pair.text for pair in pairs], [pair.other for pair in pairs]
        return cls(sides, np.array([pair.score for pair in pairs]), resamples, count)

    def masked(self) -> "_Pairs":
        """The pairs without their topic, each text masked once."""
        known = {text: mask(text) for side in self.sides for text in side}
        first, second = ([known[text] for text in side] for side in self.sides)
        return self._replace(sides=(first, second))


def _sources(pairs: Sequence[Pair], keys: tuple[str, str]) -> tuple[list[str], list[str]]:
    """Where the first and the second texts come from; a text that does not say is a source of its own."""
    first, second = ([str(pair.meta.get(key, f"{row} {key}")) for row, pair in enumerate(pairs)] for key in keys)
    return first, second


def _examined(held: HeldOut, measures: Mapping[str, Similarity], masked: Mapping[str, Similarity]) -> dict[str, Any]:
    """The figures of all measures on one set."""
    originals, graded = _Pairs.of(held.originals), _Pairs.of(held.graded) if held.graded else None
    found: dict[str, Any] = {name: {} for name in measures}
    for ending, by in (("", measures), ("_masked", masked)):
        if ending:
            originals, graded = originals.masked(), graded and graded.masked()
        curves = {}
        for name, measure in by.items():
            curves[name], figures = _told_apart(originals, measure, ending)
            found[name] |= figures | (_correlation(graded, measure, ending) if graded else {})
            if name != JUDGE:
                above = curves[JUDGE] - curves[name]
                found[name] |= originals.resamples.figure(f"judge_above{ending}", above)
    authors = {str(pair.meta.get(key)) for pair in held.originals for key in ("author", "author2")}
    counts = {"originals": len(held.originals), "graded": len(held.graded)}
    return {**counts, "documents": originals.documents, "authors": len(authors), **found}


def _told_apart(pairs: _Pairs, measure: Similarity, ending: str) -> tuple[Floats, dict[str, Any]]:
    """AUROC (1 + R,) of pairs of originals, and the figures of a measure."""
    found, alike, resamples = finite_similarities(measure(*pairs.sides)), pairs.scores > 0.5, pairs.resamples
    curve = auroc(found, alike, resamples.weights)
    errors = equal_error_rate(found, alike, resamples.weights)
    return curve, {**resamples.figure(f"auroc{ending}", curve), **resamples.figure(f"eer{ending}", errors)}


def _correlation(pairs: _Pairs, measure: Similarity, ending: str) -> dict[str, Any]:
    found = finite_similarities(measure(*pairs.sides))
    correlations = rank_correlation(found, pairs.scores, pairs.resamples.weights)
    return pairs.resamples.figure(f"spearman{ending}", correlations)


def finite_similarities(found: Any) -> Floats:
    """Similarities as float64; one that is no number counts as the lowest."""
    wide = np.asarray(found, dtype=np.float64)
    known = wide[np.isfinite(wide)]
    return np.where(np.isfinite(wide), wide, known.min() if len(known) else 0.0)


def _chance(name: str, found: Mapping[str, Any]) -> list[str]:
    """Whether the judge may be guessing on masked text."""
    value, interval = found[JUDGE]["auroc_masked"], found[JUDGE]["auroc_masked_ci"]
    if value is None:
        return [f"{name}: no pairs of originals of both kinds, so that nothing is known"]
    if interval is None or interval[0] <= 0.5:
        return [f"{name}: on masked text it is not surely better than chance (AUROC {value:.3f})"]
    return []


def _beaten(name: str, found: Mapping[str, Any]) -> list[str]:
    """The baselines that are above the judge on masked text."""
    value = found[JUDGE]["auroc_masked"]
    others = {key: part["auroc_masked"] for key, part in found.items() if isinstance(part, Mapping) and key != JUDGE}
    return [
        f"{name}: on masked text {other.replace('_', ' ')} ({above:.3f}) is above it ({value:.3f})"
        for other, above in others.items()
        if value is not None and min(above, CEILING) > value
    ]


def _few(name: str, found: Mapping[str, Any]) -> list[str]:
    """What to keep in mind of a small set, whatever the verdict."""
    few = found["documents"] < FEW_DOCUMENTS
    return [f"{name}: only {found['documents']} books, so that intervals are over their chunks"] if few else []
