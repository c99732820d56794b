"""All figures of an evaluation set together, as plain values for a record."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lit_narrative.report.intervals import Floats
from lit_narrative.tasks.verbalize.copying import copy_scores
from lit_narrative.tasks.verbalize.evaluation.claims import Claims, claim_scores, position_match
from lit_narrative.tasks.verbalize.evaluation.fve import Fidelity
from lit_narrative.tasks.verbalize.evaluation.health import PoolHealth, text_health
from lit_narrative.tasks.verbalize.evaluation.readings import (
    Critics,
    Paraphrase,
    Pool,
    paraphrase_scores,
    prefix_scores,
    read,
    reference_scores,
)
from lit_narrative.text import WordBits

FROZEN = "_frozen"
"""Behind the figures under the critic as supervised training left it, which the actor was not trained along with."""


@dataclass(frozen=True)
class AnswerSet:
    """The answers to an evaluation set, n rows.

    Attributes:
        answers: whole completions.
        explanations: cut out of them; None: the format failed.
        targets: (n, a) raw activations.
        documents: of each row.
        sources: the text up to each position.
        teacher: the teacher's text of each; None: there is none.
        scale: norm at which vectors are compared, the critic's; None: raw.
    """

    answers: Sequence[str]
    explanations: Sequence[str | None]
    targets: Floats
    documents: Sequence[str]
    sources: Sequence[str]
    teacher: Sequence[str] | None = None
    scale: float | None = 1.0

    @cached_property
    def fidelity(self) -> Fidelity:
        """How predictions of the targets are scored."""
        return Fidelity(self.targets, self.documents, self.scale)


@dataclass(frozen=True)
class Aids:
    """What explanations are judged with, whatever the set.

    Attributes:
        marker: text of the marker.
        bits: word frequencies.
        pool: training rows; None: no neighbours are looked up.
        claims: what a text claims; None: nothing is known of the texts' content.
        paraphrase: says a text in other words; None: likewise.
    """

    marker: str
    bits: WordBits
    pool: Pool | None = None
    claims: Callable[[str], Claims] | None = None
    paraphrase: Paraphrase | None = None


def evaluate(rows: AnswerSet, critics: Critics, aids: Aids, references: bool = True) -> dict[str, Any]:
    """Every figure of a set that needs no subject.

    Args:
        rows: the answers.
        critics: by suffix; none: figures that need a critic are left out.
        aids: of the task.
        references: measure floors, ceilings, prefixes and paraphrases too, which do not depend on a control.

    Returns:
        Figures by name, each with its interval over documents as ``<name>_ci``; and ``rows``, columns of the FVE of
        each row, from which differences between policies are formed.
    """
    resamples = rows.fidelity.resamples
    scores: dict[str, Any] = {"n": len(rows.answers), "documents": resamples.count}
    columns: dict[str, list[Any]] = {"document": list(rows.documents)}
    for suffix, reconstruct in critics.items():
        predicted = read(reconstruct, rows.explanations, rows.targets.shape[1])
        scores |= rows.fidelity.scores(f"fve{suffix}", predicted)
        scores |= position_match(rows.fidelity, predicted, rows.documents, f"position_match{suffix}")
        values = rows.fidelity.row_values(rows.fidelity.errors(predicted))
        columns[f"fve{suffix}"] = [round(float(value), 6) for value in values]
    scores |= text_health(resamples, rows.answers, rows.explanations, aids.marker, rows.teacher)
    scores |= copy_scores(resamples, rows.explanations, rows.sources, aids.bits)
    if aids.claims is not None:
        scores |= _claims(rows, aids.claims)
    if references:
        scores |= _references(rows, critics, aids)
    return scores | {"rows": columns}


def _claims(rows: AnswerSet, claims: Callable[[str], Claims]) -> dict[str, Any]:
    claimed = [claims(text or "") for text in rows.explanations]
    return claim_scores(rows.fidelity.resamples, claimed, [claims(source) for source in rows.sources])


def _references(rows: AnswerSet, critics: Critics, aids: Aids) -> dict[str, Any]:
    scores = reference_scores(rows.fidelity, critics, rows.teacher, aids.pool)
    for suffix, reconstruct in critics.items():
        scores |= prefix_scores(rows.fidelity, reconstruct, rows.explanations, suffix)
    if aids.paraphrase is not None:
        scores |= paraphrase_scores(rows.fidelity, critics, rows.explanations, aids.paraphrase)
    health = PoolHealth.of(rows.targets)
    return scores | {f"targets_{name}": getattr(health, name) for name in PoolHealth.__slots__}
