"""Scores of edges and of nodes by attribution, and the edges that ACDC keeps."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np

from lit_narrative.circuits.graph import Edge, Graph, to_dot
from lit_narrative.circuits.tables import read_arrays, write_arrays
from lit_narrative.files import read_json, write_json, write_text


@dataclass(frozen=True, eq=False)
class Pruned:
    """The circuit that ACDC leaves.

    Attributes:
        graph: of the model.
        kept: its edges, in the order in which they were tried.
        faithfulness: of them together, on the pairs that they were found on.
        threshold: the change of faithfulness that an edge had to cause to stay.
        tried: number of edges tried; the others were dropped from the start.
    """

    graph: Graph
    kept: tuple[Edge, ...]
    faithfulness: float
    threshold: float
    tried: int

    def save(self, folder: str | Path) -> Path:
        """Write acdc.json."""
        names = [self.graph.name(edge) for edge in self.kept]
        rest = {name: getattr(self, name) for name in ("faithfulness", "threshold", "tried")}
        rest["of_edges"] = len(self.graph.edges)
        content = {"graph": self.graph.sizes(), **rest, "edges": names, "places": self.kept}
        write_json(Path(folder, "acdc.json"), content)
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` wrote."""
        stored = read_json(Path(folder, "acdc.json"))
        kept = tuple((source, reader) for source, reader in stored["places"])
        return cls(Graph(**stored["graph"]), kept, stored["faithfulness"], stored["threshold"], stored["tried"])


Method = Literal["eap", "eap_ig", "exact"]


@dataclass(frozen=True, eq=False)
class EdgeScores:
    """A score for every edge.

    Attributes:
        graph: of the model.
        scores: (S, D) float32, 0 where there is no edge.
        method: by which they were scored.
    """

    graph: Graph
    scores: np.ndarray
    method: str

    def ranked(self) -> list[Edge]:
        """Every edge, the largest magnitude first."""
        edges = self.graph.edges
        return sorted(edges, key=lambda edge: -abs(float(self.scores[edge])))

    def values(self) -> np.ndarray:
        """(E,) the scores in the order of ``graph.edges``."""
        return self.scores[self.graph.exists]

    def magnitudes(self) -> dict[str, float]:
        """Every edge's magnitude by its name, to be compared with another model's (`overlap`)."""
        return {self.graph.name(edge): abs(float(self.scores[edge])) for edge in self.graph.edges}

    def named(self, count: int) -> dict[tuple[str, str], float]:
        """The strongest edges by (source, destination)."""
        graph = self.graph
        top = self.ranked()[:count]
        return {(graph.sources[s], graph.destinations[d]): float(self.scores[s, d]) for s, d in top}

    def save(self, folder: str | Path, top: int = 30) -> Path:
        """Write circuit.json (sizes, method, strongest edges), circuit.dot and circuit.safetensors (all scores)."""
        folder, graph = Path(folder), self.graph
        edges = [{"source": a, "destination": b, "score": score} for (a, b), score in self.named(top).items()]
        counts = {"sources": len(graph.sources), "destinations": len(graph.destinations), "edges": len(graph.edges)}
        content = {"method": self.method, "graph": graph.sizes(), **counts, "top_edges": edges}
        write_json(folder / "circuit.json", content)
        write_text(folder / "circuit.dot", to_dot(self.named(top)))
        write_arrays(folder / "circuit.safetensors", {"scores": self.scores})
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` wrote."""
        stored = read_json(Path(folder, "circuit.json"))
        return cls(
            Graph(**stored["graph"]), read_arrays(Path(folder, "circuit.safetensors"))["scores"], stored["method"]
        )


@dataclass(frozen=True, eq=False)
class NodeScores:
    """A score for every part, column by column.

    Attributes:
        sources: names of the parts.
        scores: (S, T) float32; the columns are those of the contrasts.
        method: by which they were scored.
    """

    sources: tuple[str, ...]
    scores: np.ndarray
    method: str

    def ranked(self) -> list[tuple[str, float]]:
        """Parts with their scores summed over columns, the largest magnitude first."""
        totals = zip(self.sources, self.scores.sum(1).tolist(), strict=True)
        return sorted(totals, key=lambda item: -abs(item[1]))

    def save(self, folder: str | Path) -> Path:
        """Write nodes.json (parts and totals) and nodes.safetensors."""
        folder = Path(folder)
        totals = dict(zip(self.sources, self.scores.sum(1).tolist(), strict=True))
        write_json(folder / "nodes.json", {"method": self.method, "scores": totals})
        write_arrays(folder / "nodes.safetensors", {"scores": self.scores})
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` wrote."""
        stored = read_json(Path(folder, "nodes.json"))
        return cls(tuple(stored["scores"]), read_arrays(Path(folder, "nodes.safetensors"))["scores"], stored["method"])
