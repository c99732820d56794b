"""Is a circuit enough, is it all, and is every edge needed?

The criteria of Wang et al. 2022 (https://arxiv.org/abs/2211.00593), on edges. All figures are shares of the gap between
the model's clean and corrupt runs.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import numpy as np

from lit_narrative.circuits.edges import edge_mask
from lit_narrative.circuits.faithfulness import Circuits
from lit_narrative.circuits.graph import Edge
from lit_narrative.circuits.sweep import Progress
from lit_narrative.circuits.tables import read_json
from lit_narrative.errors import UserError, check_least
from lit_narrative.files import write_json


@dataclass(frozen=True)
class Criteria:
    """A circuit's judgement.

    Attributes:
        edges: in the circuit.
        faithfulness: of the circuit; 1 is the whole model's.
        completeness: what is lost when only the circuit is taken away; 1 is all.
        incompleteness: largest |f(C∖K) − f(all∖K)| over random parts K of the circuit; 0 if the circuit reacts to
            damage as the whole model does.
        minimality: smallest |f(C) − f(C∖e)| over its edges: near 0 if some edge is idle.
        idlest: name of that edge.
    """

    edges: int
    faithfulness: float
    completeness: float
    incompleteness: float
    minimality: float
    idlest: str

    def save(self, folder: str | Path) -> Path:
        """Write criteria.json."""
        write_json(Path(folder, "criteria.json"), asdict(self))
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` wrote."""
        return cls(**read_json(Path(folder, "criteria.json")))


def judge(
    circuits: Circuits, edges: Sequence[Edge], *, draws: int = 10, seed: int = 0, progress: Progress | None = None
) -> Criteria:
    """Judge a circuit.

    Args:
        circuits: the model on its pairs.
        edges: of the circuit.
        draws: random parts tried; each edge is in with probability one half.
        seed: of the draws.
        progress: called with (runs done, of how many).

    Raises:
        UserError: The circuit has no edges.
    """
    check_least("draws", draws, 1)
    if not edges:
        raise UserError("a circuit without edges cannot be judged; lower the threshold, or take more edges")
    graph, rng = circuits.graph, np.random.default_rng(seed)
    whole = edge_mask(graph, edges)
    parts = [edge_mask(graph, [edge for edge in edges if rng.random() < 0.5]) for _ in range(draws)]
    single = [edge_mask(graph, [edge]) for edge in edges]
    tried = [whole, graph.exists & ~whole, *(whole & ~part for part in parts + single)]
    found = np.array(circuits.faithfulness(tried + [graph.exists & ~part for part in parts], progress))
    own, rest, damaged, without, model = np.split(found, np.cumsum([1, 1, draws, len(edges)]))
    needed = np.abs(own - without)
    idle = int(needed.argmin())
    return Criteria(
        len(edges),
        own.item(),
        1 - rest.item(),
        float(np.abs(damaged - model).max()),
        float(needed[idle]),
        graph.name(edges[idle]),
    )
