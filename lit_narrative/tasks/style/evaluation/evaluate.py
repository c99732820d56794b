"""All figures of a set of texts in authors' styles together, as plain values for a record."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lit_narrative.report.intervals import Resamples
from lit_narrative.report.records import finite
from lit_narrative.tasks.style.evaluation.copying import Sources, copy_columns
from lit_narrative.tasks.style.evaluation.judging import StyleReferences, drift_scores, likeness_columns, topic_swap
from lit_narrative.tasks.style.evaluation.slop import diversity_scores, means, slop_scores
from lit_narrative.text import repetition

JUDGES = ("judge_a", "judge_b")
"""The judge that training is by, and the one that it never sees: another encoder, trained on other books."""


@dataclass(frozen=True)
class StyleTexts:
    """Texts that were asked for, n rows.

    Attributes:
        texts: of a model.
        authors: whose style each was asked for.
        plots: what each was to tell; texts of one plot are one document, whatever the author.
        columns: further scores of each text, such as ``content`` and ``completeness``; None where there is none.
        shown: the held-out chunk in each prompt, with which its text is not compared; none: no prompt had one.
    """

    texts: Sequence[str]
    authors: Sequence[str]
    plots: Sequence[str]
    columns: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    shown: Sequence[str | None] = ()


@dataclass(frozen=True)
class StyleAids:
    """What texts are judged with.

    Attributes:
        judges: held-out chunks under each judge, by its name among `JUDGES`.
        sources: all chunks of each author.
        human: texts of the authors, to compare the use of words with.
        window: words of the windows along which style is followed.
        human_span: bits of the longest span that a held-out chunk shares with the author's training chunks, a mean:
            what the authors repeat of themselves; None: it is not known.
    """

    judges: Mapping[str, StyleReferences]
    sources: Mapping[str, Sources]
    human: Sequence[str]
    window: int = 300
    human_span: float | None = None


def evaluate(rows: StyleTexts, aids: StyleAids) -> dict[str, Any]:
    """Every figure of a set, each with its interval over plots as ``<name>_ci``.

    Returns:
        The figures; ``authors``, those of single texts by author; and ``rows``, the columns that they are means of,
        from which differences between models are formed.
    """
    resamples = Resamples(rows.plots)
    columns = copy_columns(rows.texts, rows.authors, aids.sources) | dict(rows.columns)
    columns["repetition"] = [repetition([text]) for text in rows.texts]
    columns["words"] = [float(len(text.split())) for text in rows.texts]
    scores: dict[str, Any] = {"n": len(rows.texts), "documents": resamples.count, "copied_span_human": aids.human_span}
    swaps: dict[str, dict[str, Any]] = {}
    for name, references in aids.judges.items():
        likeness, own = references.likeness(rows.texts, rows.shown), references.columns(rows.authors)
        columns |= likeness_columns(name, references, likeness, own)
        swaps[name] = topic_swap(f"topic_swap_{name}", likeness, own, rows.plots)
        scores |= swaps[name] | drift_scores(resamples, name, references, rows.texts, own, aids.window, rows.shown)
        scores |= {f"{name}_same_author": finite(references.same), f"{name}_other_author": finite(references.other)}
    # The headline is that of the judge which training did not see.
    for name, swap in list(swaps.items())[-1:]:
        scores |= {key.replace(f"_{name}", "", 1): value for key, value in swap.items()}
    scores |= means(resamples, columns)
    scores |= diversity_scores(resamples, rows.texts, rows.authors)
    scores |= slop_scores(resamples, rows.texts, rows.plots, aids.human)
    authors = {author: _author(author, rows, columns) for author in dict.fromkeys(rows.authors)}
    known = {name: [None if v is None else round(v, 6) for v in column] for name, column in columns.items()}
    return scores | {"authors": authors, "rows": {"document": [*rows.plots], "author": [*rows.authors], **known}}


def _author(author: str, rows: StyleTexts, columns: Mapping[str, Sequence[float | None]]) -> dict[str, Any]:
    """The figures of one author's texts."""
    chosen = [row for row, name in enumerate(rows.authors) if name == author]
    parts = {name: [column[row] for row in chosen] for name, column in columns.items()}
    return {"n": len(chosen), **means(Resamples([rows.plots[row] for row in chosen]), parts)}
