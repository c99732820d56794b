"""Signs that something is broken though the losses look well: in the texts, and in the pool of target activations."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from lit_narrative.errors import UserError
from lit_narrative.report.intervals import Floats, Resamples

_LEAST_SPREAD = 1e-6  # of an element, as a share of the root mean square of all elements
_MOST_REPEATED = 0.5


def text_health(
    resamples: Resamples,
    answers: Sequence[str],
    explanations: Sequence[str | None],
    marker: str,
    teacher: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Signs of a broken actor.

    ``format``: share of answers with an explanation. ``marker_talk``: share that name the marker, as actors do that
    never got the vector. ``words``: mean length of explanations; ``length_drift``: that over the length of the
    teacher's texts, less 1. ``unique``: share of distinct explanations; one answer to everything has 1 / n.

    Args:
        resamples: of the set's documents.
        answers: whole completions.
        explanations: cut out of them; None: the format failed.
        marker: its text.
        teacher: texts that the actor was trained on; None: there are none.
    """
    known = [text for text in explanations if text is not None]
    length = fmean(len(text.split()) for text in known) if known else 0.0
    scores = {
        **resamples.mean("format", np.array([float(text is not None) for text in explanations])),
        **resamples.mean("marker_talk", np.array([float(bool(marker) and marker in text) for text in answers])),
        "words": length,
        "unique": len(set(known)) / len(known) if known else 0.0,
    }
    usual = fmean(len(text.split()) for text in teacher) if teacher else 0.0
    return scores | ({"length_drift": length / usual - 1} if usual else {})


@dataclass(frozen=True, slots=True)
class PoolHealth:
    """What is wrong with activations that reconstructors would learn "well" and learn nothing from.

    Attributes:
        dead_elements: share of elements of the vector that hardly vary.
        norm_spread: standard deviation of the vectors' norms over their mean.
        repeated: share of vectors that equal an earlier one.
    """

    dead_elements: float
    norm_spread: float
    repeated: float

    @classmethod
    def of(cls, vectors: Floats) -> "PoolHealth":
        """Measure vectors (n, a), n at least 1."""
        wide = np.asarray(vectors, dtype=np.float64)
        size = float(np.sqrt((wide**2).mean()))
        norms = np.linalg.norm(wide, axis=1)
        distinct = len(np.unique(np.ascontiguousarray(vectors), axis=0))
        return cls(
            float((wide.std(0) <= _LEAST_SPREAD * size).mean()),
            float(norms.std() / norms.mean()) if size else 0.0,
            1 - distinct / len(wide),
        )

    def check(self, where: str) -> None:
        """Refuse a pool that cannot teach anything.

        Raises:
            UserError: no element varies, or most vectors are repeated, as where each position is the same token.
        """
        if self.dead_elements == 1 or self.repeated > _MOST_REPEATED:
            raise UserError(
                f"{where}: {self.repeated:.0%} of the activations repeat an earlier one, and {self.dead_elements:.0%} "
                "of their elements never vary: positions may all hold the same token; choose other positions or "
                "another layer"
            )
