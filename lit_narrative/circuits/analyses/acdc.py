"""ACDC (Conmy et al. 2023, https://arxiv.org/abs/2304.14997): drop every edge whose loss changes little.

Destinations are walked from the logits back. An edge is dropped for good if letting it carry the corrupt activation
changes the mean logit difference by less than a threshold. The paper compares output distributions; here the change is
a share of the gap between clean and corrupt runs, so that one threshold suits every model. Every edge takes a forward
pass, so in a large model only the edges that attribution ranks highest are tried (Syed et al. 2023, section 5,
https://arxiv.org/abs/2310.10348); the others are dropped from the start.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from lit_narrative.circuits.analyses.attribution import AttributionSettings, attribute_edges
from lit_narrative.circuits.analyses.faithfulness import Circuits
from lit_narrative.circuits.contrasts import Contrasts
from lit_narrative.circuits.graph import Edge, Graph, edge_mask
from lit_narrative.circuits.hooks import Progress
from lit_narrative.circuits.tables import read_json
from lit_narrative.errors import UserError, check_least
from lit_narrative.files import write_json

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True)
class PruningSettings:
    """How edges are dropped.

    Args:
        threshold: the change of faithfulness that an edge must cause to stay.
        max_pairs: pairs used at most.
        max_edges: edges tried at most.
        batch_size: rows of one forward pass.
        draws: random parts of the circuit by which it is judged afterwards (`criteria`).
        seed: of those.
    """

    threshold: float = 0.01
    max_pairs: int = 16
    max_edges: int = 2000
    batch_size: int = 256
    draws: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if self.threshold <= 0:
            raise UserError(f"acdc.threshold is {self.threshold}; it must be above 0, or no edge is dropped")
        for name in ("max_pairs", "max_edges", "batch_size", "draws"):
            check_least(f"acdc.{name}", getattr(self, name), 1)


@dataclass(frozen=True, eq=False)
class Pruned:
    """What ACDC left.

    Attributes:
        graph: of the model.
        kept: its edges, in the order in which they were tried.
        faithfulness: of them together.
        threshold: what an edge had to change.
        tried: edges; the others were dropped from the start.
    """

    graph: Graph
    kept: tuple[Edge, ...]
    faithfulness: float
    threshold: float
    tried: int

    def save(self, folder: str | Path) -> Path:
        """Write acdc.json."""
        names = [self.graph.name(edge) for edge in self.kept]
        sizes = {"layers": self.graph.layers, "heads": self.graph.heads, "kv_heads": self.graph.kv_heads}
        rest = {name: getattr(self, name) for name in ("faithfulness", "threshold", "tried")}
        rest["of_edges"] = len(self.graph.edges)
        write_json(Path(folder, "acdc.json"), {"graph": sizes, **rest, "edges": names, "places": self.kept})
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` wrote."""
        stored = read_json(Path(folder, "acdc.json"))
        kept = tuple((source, reader) for source, reader in stored["places"])
        return cls(Graph(**stored["graph"]), kept, stored["faithfulness"], stored["threshold"], stored["tried"])


def prune(
    bridge: "TransformerBridge",
    contrasts: Contrasts,
    settings: PruningSettings | None = None,
    progress: Progress | None = None,
) -> Pruned:
    """Find a circuit by dropping edges.

    Args:
        bridge: the model.
        contrasts: the pairs; the first ``max_pairs`` are used.
        settings: how.
        progress: called with (edges tried, of how many).

    Raises:
        UserError: The model does not tell the prompts apart, or cannot be taken apart.
    """
    settings = settings or PruningSettings()
    pairs = contrasts.first(settings.max_pairs)
    made = Circuits(bridge, pairs, settings.batch_size)
    edges = sorted(_candidates(bridge, pairs, made.graph, settings), key=lambda edge: (-edge[1], -edge[0]))
    circuit = edge_mask(made.graph, edges)
    (now,) = made.faithfulness([circuit])
    kept: list[Edge] = []
    for done, edge in enumerate(edges, 1):
        circuit[edge] = False
        (without,) = made.faithfulness([circuit])
        if abs(without - now) < settings.threshold:
            now = without
        else:
            circuit[edge] = True
            kept.append(edge)
        if progress is not None:
            progress(done, len(edges))
    return Pruned(made.graph, tuple(kept), now, settings.threshold, len(edges))


def _candidates(
    bridge: "TransformerBridge", pairs: Contrasts, graph: Graph, settings: PruningSettings
) -> Sequence[Edge]:
    if len(graph.edges) <= settings.max_edges:
        return graph.edges
    ranking = AttributionSettings("eap_ig", max_pairs=settings.max_pairs, batch_size=settings.batch_size)
    return attribute_edges(bridge, pairs, ranking).ranked()[: settings.max_edges]
