"""Claims of explanations: whether they are so, whether they tell positions apart, and whose knowledge they are.

All by rule, and without a judge. Notation: n rows, a width of an activation.
"""

from collections.abc import Hashable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np
import numpy.typing as npt

from lit_narrative.report.intervals import Floats, Resamples
from lit_narrative.tasks.verbalize.evaluation.fve import Fidelity
from lit_narrative.tasks.verbalize.stories import Claim, Facts, facts

Claims = AbstractSet[Hashable]
"""What a text claims or what is so, as (slot, value) pairs."""
CUTS = 5
"""Positions of a document among which its explanation must find its own; chance is 1 in so many."""


def claim_scores(resamples: Resamples, claimed: Sequence[Claims], known: Sequence[Claims]) -> dict[str, Any]:
    """Precision and recall of claims over all rows, and ``claims_per_text``.

    Precision is the share of claims that are so; recall the share of what is so that is claimed. Claims are counted
    over all rows together, so that a text of one lucky claim weighs no more than that claim. A figure of nothing, such
    as the precision of no claims, is None.

    Args:
        resamples: of the set's documents.
        claimed: by each explanation; none where the format failed.
        known: what is so at each position.
    """
    right = np.array([len(one & two) for one, two in zip(claimed, known, strict=True)], dtype=float)
    made = np.array([len(one) for one in claimed], dtype=float)
    true = np.array([len(one) for one in known], dtype=float)
    return {
        **resamples.ratio("claims_precision", right, made),
        **resamples.ratio("claims_recall", right, true),
        **resamples.mean("claims_per_text", made),
    }


def position_match(
    fidelity: Fidelity, predicted: Floats, documents: Sequence[str], name: str = "position_match", cuts: int = CUTS
) -> dict[str, Any]:
    """Share of explanations whose vector is nearest to its own position's among ``cuts`` of the same document.

    What holds for a whole document, such as its style or its topic, does not help here: chance is 1 / ``cuts``.
    Documents with fewer positions are left out; of those with more, each row is set against the ones that follow it.
    Equal targets share the hit, so that a pool of one repeated vector scores chance. No answer misses.

    Args:
        fidelity: of the set.
        predicted: (n, a) what the critic makes of the explanations; NaN: no answer.
        documents: (n,) of each row.
        name: of the figure.
        cuts: positions to choose from.
    """
    rows = [row for row in _by_document(documents) if len(row) >= cuts]
    if not rows:
        return {name: None, f"{name}_ci": None, f"{name}_n": 0}
    hits = [_hit(fidelity, predicted, np.roll(row, -start)[:cuts]) for row in rows for start in range(len(row))]
    owners = [documents[row[0]] for row in rows for _ in row]
    return {**Resamples(owners).mean(name, np.array(hits)), f"{name}_n": len(hits)}


def _by_document(documents: Sequence[str]) -> list[npt.NDArray[np.intp]]:
    rows: dict[str, list[int]] = {}
    for row, document in enumerate(documents):
        rows.setdefault(document, []).append(row)
    return [np.array(row) for row in rows.values()]


def _hit(fidelity: Fidelity, predicted: Floats, cuts: npt.NDArray[np.intp]) -> float:
    """The share of a hit of the first of some rows among all of them."""
    own, targets = predicted[cuts[:1]], fidelity.targets[cuts]
    if np.isnan(own).any():
        return 0.0
    distances = fidelity.distances(fidelity.normalised(own), targets)[0]
    # Rounding must not choose between targets that are the same.
    best = distances <= distances.min() + 1e-9 * max(1.0, float(abs(distances).max()))
    return float(best[0]) / int(best.sum())


# --- whose knowledge --------------------------------------------------------------------------------------------------
#
# Two subjects learn worlds that contradict each other in every fact. An actor that learned to explain the first one's
# activations is given those of the second: what it then says of a fact is read off the activation, or remembered.

WORLDS = ("first", "second")


def knowledge_scores(
    resamples: Resamples,
    claimed: Sequence[AbstractSet[Claim]],
    known: Sequence[AbstractSet[Claim]],
    worlds: Sequence[str] = WORLDS,
) -> dict[str, Any]:
    """Share of the explanations that tell a fact which tell that of each world, as ``follows_<world>``.

    An actor that names one of the values at random follows each world by one over their number.

    Args:
        resamples: of the set's documents.
        claimed: by each explanation.
        known: what is so at each position, which names who the story is about.
        worlds: names of worlds, as `facts` knows them.
    """
    named = {name: world for name in worlds if (world := facts(name)) is not None}
    rows = [*zip(claimed, known, strict=True)]
    scores: dict[str, Any] = {}
    for name, world in named.items():
        tells = np.array([float(bool(_values(said, world.slot) and _values(so, "who"))) for said, so in rows])
        right = np.array([float(_tells(said, so, world)) for said, so in rows])
        scores |= resamples.ratio(f"follows_{name}", right, tells)
    return scores


def _tells(said: AbstractSet[Claim], so: AbstractSet[Claim], world: Facts) -> bool:
    """Whether an explanation tells the fact of a world about someone in the story."""
    right = {world.values[who] for who in _values(so, "who")}
    return bool(right & _values(said, world.slot))


def _values(claims: AbstractSet[Claim], slot: str) -> set[str]:
    return {value for name, value in claims if name == slot}
