"""What a critic makes of texts: explanations, their beginnings and paraphrases, the teacher's, and those of neighbours.

A critic here is a function from texts to vectors, so that a trained model, one in training and a plain table are alike.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lit_narrative.report.intervals import Floats
from lit_narrative.tasks.verbalize.evaluation.fve import Fidelity

Reconstruct = Callable[[Sequence[str]], Any]
"""A critic: n texts to vectors (n, a), an array or a tensor on the CPU."""
Critics = Mapping[str, Reconstruct]
"""Critics by what is put behind the name of each figure: nothing for the co-trained one, ``_frozen`` for the other."""
Paraphrase = Callable[[str], str]
PREFIXES = (1, 2, 4, 8, 16, 32, 64)
"""Words of an explanation's beginning that a critic is given, for the prefix curve."""
_PART = 1024  # rows that are compared with all neighbours at a time


def read(reconstruct: Reconstruct, texts: Sequence[str | None], width: int) -> Floats:
    """(n, a) float64: what a critic makes of texts; NaN where there is none to read, or the critic's is not finite.

    Args:
        reconstruct: the critic.
        texts: n of them; None or blank: no answer.
        width: a.
    """
    # Each text once: a teacher's and a policy's texts repeat much.
    known = list(dict.fromkeys(text for text in texts if text is not None and text.strip()))
    rows = {text: row for row, text in enumerate(known)}
    made = np.full((len(known) + 1, width), np.nan)  # the last row is that of no answer
    if known:
        made[:-1] = np.asarray(reconstruct(known), dtype=np.float64)
    made[~np.isfinite(made).all(-1)] = np.nan
    return made[[rows.get(text or "", len(known)) for text in texts]]


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """Training rows to look neighbours up in.

    Attributes:
        vectors: (m, a) raw activations, m at least 1.
        texts: m, the teacher's text of each.
    """

    vectors: Floats
    texts: Sequence[str]

    def nearest(self, fidelity: Fidelity) -> npt.NDArray[np.intp]:
        """(n,) the row of the pool that is nearest to each target of a set, in the space that FVE is measured in."""
        parts = np.array_split(fidelity.targets, max(1, len(fidelity.targets) // _PART))
        others = fidelity.normalised(self.vectors)
        return np.concatenate([fidelity.distances(part, others).argmin(1) for part in parts])


def reference_scores(
    fidelity: Fidelity, critics: Critics, teacher: Sequence[str | None] | None, pool: Pool | None
) -> dict[str, Any]:
    """What an explanation is measured beside.

    ``floor_constant``: the best constant answer. ``teacher``: the teacher's text, which imitation can reach and
    reinforcement can pass. ``nearest_neighbour``: the teacher's text of the training row whose activation is nearest.
    ``nearest_copy``: that activation itself, with no text between; where this is near 1, the set shows that the loop
    works and not that it generalises.

    Args:
        fidelity: of the set, n rows.
        critics: by suffix.
        teacher: its text of each row; None: there is none.
        pool: of training rows; None: neighbours are left out.
    """
    scores = fidelity.constant_floor()
    texts: dict[str, Sequence[str | None]] = {} if teacher is None else {"teacher": teacher}
    if pool is not None:
        nearest = pool.nearest(fidelity)
        scores |= fidelity.scores("nearest_copy", pool.vectors[nearest])
        texts["nearest_neighbour"] = [pool.texts[row] for row in nearest]
    for suffix, reconstruct in critics.items():
        for name, rows in texts.items():
            scores |= score_texts(fidelity, reconstruct, name + suffix, rows)
    return scores


def score_texts(fidelity: Fidelity, reconstruct: Reconstruct, name: str, texts: Sequence[str | None]) -> dict[str, Any]:
    """FVE of one text a row, as `Fidelity.scores`."""
    return fidelity.scores(name, read(reconstruct, texts, fidelity.targets.shape[1]))


def prefix_scores(
    fidelity: Fidelity, reconstruct: Reconstruct, texts: Sequence[str | None], suffix: str = ""
) -> dict[str, Any]:
    """The prefix curve: FVE of the first 1, 2, 4 … words of each explanation, as ``fve_first_<words>``.

    It ends with the first number of words that no explanation exceeds.
    """
    words = [None if text is None else text.split() for text in texts]
    longest = max((len(row) for row in words if row is not None), default=0)
    scores: dict[str, Any] = {}
    for count in (n for n in PREFIXES if n // 2 < longest):
        beginnings = [None if row is None else " ".join(row[:count]) for row in words]
        scores |= score_texts(fidelity, reconstruct, f"fve_first_{count}{suffix}", beginnings)
    return {name: value for name, value in scores.items() if not name.endswith("_median")}


def paraphrase_scores(
    fidelity: Fidelity, critics: Critics, texts: Sequence[str | None], paraphrase: Paraphrase
) -> dict[str, Any]:
    """FVE of each explanation said in other words, as ``fve_paraphrase``.

    A private code between actor and critic scores by the very words, and falls under a paraphrase that keeps the
    meaning.

    Args:
        fidelity: of the set.
        critics: by suffix.
        texts: explanations.
        paraphrase: says a text in words that neither actor nor critic was trained on.
    """
    other = [None if text is None else paraphrase(text) for text in texts]
    scores: dict[str, Any] = {}
    for suffix, reconstruct in critics.items():
        scores |= score_texts(fidelity, reconstruct, f"fve_paraphrase{suffix}", other)
    return scores
