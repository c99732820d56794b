"""Faithfulness: whether a circuit does what the model does, by its size and against random circuits.

m(C) is the mean logit difference on the clean prompts where every edge outside C carries the corrupt run's activations.
Faithfulness f(C) = (m(C) − m(∅)) / (m(all) − m(∅)): 1 for the whole model, 0 for nothing. Completeness of C is
1 − f(all∖C): what is lost when only C is taken away. Incompleteness and minimality follow Wang et al. 2022
(https://arxiv.org/abs/2211.00593), section 4; CPR and CMD are Mueller et al.'s 2025 (https://arxiv.org/abs/2504.13151).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from lit_narrative.circuits.analysis import AnalysisSettings
from lit_narrative.circuits.bridge import separate_inputs
from lit_narrative.circuits.contrasts import Contrasts
from lit_narrative.circuits.graph import Edge, Graph, edge_mask, run_edges, written
from lit_narrative.circuits.hooks import Progress
from lit_narrative.circuits.tables import read_rows, write_rows
from lit_narrative.errors import UserError, check_least
from lit_narrative.files import read_json, write_json

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from lit_narrative.circuits.records.edges import EdgeScores  # which imports this module


@dataclass(frozen=True)
class CurveSettings(AnalysisSettings):
    """Sizes of the circuits that are tried.

    Args:
        fractions: sizes, as shares of all edges that were scored; 0 and 1 are added.
        random: random circuits of each size, for comparison.
        max_pairs: pairs used at most.
        batch_size: rows of one forward pass.
        seed: of the random circuits.
    """

    fractions: Sequence[float] = (0.02, 0.05, 0.1, 0.2, 0.5)
    random: int = 3
    max_pairs: int = 32
    batch_size: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        for fraction in self.fractions:
            if not 0 <= fraction <= 1:
                raise UserError(f"faithfulness.fractions: {fraction} is not in 0..1, a share of all edges")
        for name, least in (("random", 0), ("max_pairs", 1), ("batch_size", 1)):
            check_least(f"faithfulness.{name}", getattr(self, name), least)

    def tiny(self) -> Self:
        """No circuit between none and all."""
        return replace(self, fractions=(), random=0)


@dataclass(frozen=True)
class Point:
    """Circuits of one size.

    Attributes:
        edges: in the circuit.
        fraction: of all edges.
        faithfulness: of the strongest edges.
        completeness: of the same.
        random: mean faithfulness of as many random edges; None if none were tried.
    """

    edges: int
    fraction: float
    faithfulness: float
    completeness: float
    random: float | None


@dataclass(frozen=True)
class Faithfulness:
    """The curve of a ranking of edges.

    Attributes:
        points: by size, from no edge to all.
        full: mean logit difference of the whole model.
        empty: mean logit difference of the corrupt run.
    """

    points: tuple[Point, ...]
    full: float
    empty: float

    @property
    def cpr(self) -> float:
        """Circuit performance ratio: area under faithfulness over the share of edges; 1 is all at once."""
        return self._area([point.faithfulness for point in self.points])

    @property
    def cmd(self) -> float:
        """Circuit-model distance: area of |1 − faithfulness|; 0 is best."""
        return self._area([abs(1 - point.faithfulness) for point in self.points])

    @property
    def random_cpr(self) -> float | None:
        """The ratio of random rankings; None if none were tried."""
        values = [point.random for point in self.points if point.random is not None]
        return self._area(values) if len(values) == len(self.points) else None

    def _area(self, values: Sequence[float]) -> float:
        return float(np.trapezoid(values, [point.fraction for point in self.points]))

    def save(self, folder: str | Path) -> Path:
        """Write faithfulness.csv and faithfulness.json."""
        folder = Path(folder)
        write_rows(folder / "faithfulness.csv", Point, self.points)
        areas = {"cpr": self.cpr, "cmd": self.cmd, "random_cpr": self.random_cpr}
        ends = {"full": self.full, "empty": self.empty}
        write_json(folder / "faithfulness.json", {**ends, **areas, "points": len(self.points)})
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` wrote."""
        stored = read_json(Path(folder, "faithfulness.json"))
        return cls(read_rows(Path(folder, "faithfulness.csv"), Point), stored["full"], stored["empty"])


class Circuits:
    """Mean logit differences of circuits of one model on one set of pairs.

    Args:
        bridge: the model.
        contrasts: the pairs.
        batch_size: rows of one forward pass.
        graph: whose edges are in a circuit or outside it; default: all of the model. Nothing else is ever replaced, so
            that ∅ is the run in which all these edges carry the corrupt run's activations.

    Raises:
        UserError: the model does not tell clean and corrupt prompts apart, or not by these edges, or it has no hooks of
            single heads.
    """

    def __init__(
        self, bridge: "TransformerBridge", contrasts: Contrasts, batch_size: int = 256, graph: Graph | None = None
    ) -> None:
        self.bridge, self.graph, self.batch_size = bridge, graph or Graph.of(bridge), batch_size
        self.inputs = contrasts.inputs("clean")
        with separate_inputs(bridge):
            _, self.corrupt = written(bridge, contrasts.inputs("corrupt"), self.graph)
        self.full, self.empty = self.differences([self.graph.exists, edge_mask(self.graph, ())])
        if abs(self.full - self.empty) < 1e-6:  # faithfulness divides by it
            chosen = self.graph.chosen
            which = "" if chosen is None else f" in the edges of layers={list(chosen)}; name other layers"
            raise UserError(
                f"the model answers clean and corrupt prompts alike, so there is no circuit to look for{which}"
            )

    def differences(self, circuits: Sequence[np.ndarray], progress: Progress | None = None) -> list[float]:
        """m(C) of circuits (S, D) bool."""
        outside = [self.graph.exists & ~circuit for circuit in circuits]
        scores = run_edges(self.bridge, self.inputs, self.corrupt, outside, self.graph, self.batch_size, progress)
        return [float(value) for value in scores.logit_diff.double().mean(1)]

    def faithfulness(self, circuits: Sequence[np.ndarray], progress: Progress | None = None) -> list[float]:
        """f(C) of circuits (S, D) bool."""
        gap = self.full - self.empty
        return [(value - self.empty) / gap for value in self.differences(circuits, progress)]


def curve(
    bridge: "TransformerBridge",
    contrasts: Contrasts,
    scores: "EdgeScores",
    settings: CurveSettings | None = None,
    progress: Progress | None = None,
) -> Faithfulness:
    """Faithfulness and completeness of the strongest edges, for growing circuits.

    Args:
        bridge: the model.
        contrasts: the pairs; they should not be those that the edges were scored on.
        scores: the ranking.
        settings: sizes of the circuits.
        progress: called with (circuits tried, of how many).

    Raises:
        UserError: as `Circuits` raises.
    """
    settings = settings or CurveSettings()
    circuits = Circuits(bridge, contrasts.first(settings.max_pairs), settings.batch_size, scores.graph)
    ranked, rng = scores.ranked(), np.random.default_rng(settings.seed)
    sizes = sorted({0, len(ranked), *(max(1, round(share * len(ranked))) for share in settings.fractions if share)})
    orders = [ranked] + [[ranked[index] for index in rng.permutation(len(ranked))] for _ in range(settings.random)]
    kept = [edge_mask(circuits.graph, order[:size]) for order in orders for size in sizes]
    complements = [circuits.graph.exists & ~mask for mask in kept[: len(sizes)]]
    # One call for all, so that circuits of every order and size share their batches.
    values = np.array(circuits.faithfulness(kept + complements, progress)).reshape(-1, len(sizes))
    strongest, random, rest = values[0], values[1:-1], values[-1]
    points = [
        Point(size, size / len(ranked), strongest[at].item(), 1 - rest[at].item(), _mean(random[:, at]))
        for at, size in enumerate(sizes)
    ]
    return Faithfulness(tuple(points), circuits.full, circuits.empty)


def _mean(values: np.ndarray) -> float | None:
    return values.mean().item() if len(values) else None


@dataclass(frozen=True)
class CircuitQuality:
    """Faithfulness, completeness and minimality of one circuit.

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


def measure_circuit(
    circuits: Circuits, edges: Sequence[Edge], *, draws: int = 10, seed: int = 0, progress: Progress | None = None
) -> CircuitQuality:
    """Measure the faithfulness, completeness and minimality of a circuit.

    Args:
        circuits: the model on its pairs.
        edges: of the circuit.
        draws: random parts K tried; each edge is in with probability one half.
        seed: of the draws.
        progress: called with (runs done, of how many).

    Raises:
        UserError: the circuit has no edges.
    """
    check_least("draws", draws, 1)
    if not edges:
        raise UserError("a circuit without edges cannot be judged; lower the threshold, or take more edges")
    graph, rng = circuits.graph, np.random.default_rng(seed)
    circuit = edge_mask(graph, edges)
    parts = [edge_mask(graph, [edge for edge in edges if rng.random() < 0.5]) for _ in range(draws)]
    single = [edge_mask(graph, [edge]) for edge in edges]
    tried = [circuit, graph.exists & ~circuit, *(circuit & ~part for part in parts + single)]
    values = np.array(circuits.faithfulness(tried + [graph.exists & ~part for part in parts], progress))
    # In the order of `tried`: C, all∖C, C∖K for every K, C∖e for every edge, and last all∖K for every K.
    whole, rest, damaged, without, model = np.split(values, np.cumsum([1, 1, draws, len(edges)]))
    needed = np.abs(whole - without)
    idle = int(needed.argmin())
    return CircuitQuality(
        len(edges),
        whole.item(),
        1 - rest.item(),
        float(np.abs(damaged - model).max()),
        float(needed[idle]),
        graph.name(edges[idle]),
    )
