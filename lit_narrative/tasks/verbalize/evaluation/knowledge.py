"""Whose knowledge an explanation tells: that of the subject whose activation it is, or the actor's own.

Two subjects learn worlds that contradict each other in every fact. An actor that learned to explain the first one's
activations is given those of the second: what it then says of a fact is read off the activation, or remembered.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np

from lit_narrative.report.intervals import Resamples
from lit_narrative.tasks.verbalize.stories import Claim, Facts, facts

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
