"""ACDC (Conmy et al. 2023, https://arxiv.org/abs/2304.14997): dropping every edge whose loss changes little.

Destinations are visited from the logits back. An edge is dropped for good if letting it carry the corrupt activation
changes the mean logit difference by less than a threshold. The paper compares output distributions; here the change is
a share of the gap between clean and corrupt runs, so that one threshold suits every model. Every edge takes a forward
pass, so in a large model only the edges that attribution ranks highest are tried (Syed et al. 2023, section 5,
https://arxiv.org/abs/2310.10348); the others are dropped from the start.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

from lit_narrative.circuits.analyses.attribution import AttributionSettings, attribute_edges, gradient_rows
from lit_narrative.circuits.analyses.faithfulness import CircuitQuality, Circuits, measure_circuit
from lit_narrative.circuits.analysis import (
    SPLITS,
    About,
    Analysis,
    AnalysisJob,
    AnalysisSettings,
    CircuitResults,
    Layers,
    Metrics,
    Models,
    Sketch,
    Table,
    labelled,
)
from lit_narrative.circuits.bridge import bounds_of, check_layers, shape
from lit_narrative.circuits.contrasts import Contrasts
from lit_narrative.circuits.figures.edges import draw_pruned
from lit_narrative.circuits.graph import Edge, Graph, edge_mask
from lit_narrative.circuits.hooks import Progress
from lit_narrative.circuits.records.edges import Pruned
from lit_narrative.errors import UserError, check_least
from lit_narrative.report.format import number

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True)
class PruningSettings(AnalysisSettings):
    """How edges are dropped.

    Args:
        threshold: the change of faithfulness that an edge must cause to stay.
        max_pairs: pairs used at most.
        max_edges: edges tried at most; None: 2000 of a small model, 20 of one with 10 M weights and more in its blocks,
            10 from 1,000 M on (`circuits.bridge.BOUNDS`).
        batch_size: rows of one forward pass.
        draws: random parts of the circuit by which its incompleteness is measured afterwards.
        seed: of those.
        layers: those whose parts have edges, or all; the other layers compute as in the whole model.
    """

    threshold: float = 0.01
    max_pairs: int = 16
    max_edges: int | None = None
    batch_size: int = 256
    draws: int = 10
    seed: int = 0
    layers: Layers = "all"

    def __post_init__(self) -> None:
        if self.threshold <= 0:
            raise UserError(f"acdc.threshold is {self.threshold}; it must be above 0, or no edge is dropped")
        for name in ("max_pairs", "max_edges", "batch_size", "draws"):
            check_least(f"acdc.{name}", getattr(self, name), 1)

    def tiny(self) -> Self:
        """Few pairs and edges."""
        return replace(self, max_pairs=2, max_edges=4, draws=1)


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
        UserError: the model does not tell the prompts apart, or has no hooks of single heads.
    """
    settings = settings or PruningSettings()
    pairs = contrasts.first(settings.max_pairs)
    circuits = Circuits(bridge, pairs, settings.batch_size, Graph.of(bridge, settings.layers))
    # Later destinations first: an edge is judged when all that reads from it has been pruned already.
    edges = sorted(_candidates(bridge, pairs, circuits.graph, settings), key=lambda edge: (-edge[1], -edge[0]))
    circuit = edge_mask(circuits.graph, edges)
    (now,) = circuits.faithfulness([circuit])
    kept: list[Edge] = []
    for done, edge in enumerate(edges, 1):
        circuit[edge] = False
        (without,) = circuits.faithfulness([circuit])
        # Compared with the circuit as it is by now, not with the whole model: small losses may add up, as in the paper.
        if abs(without - now) < settings.threshold:
            now = without
        else:
            circuit[edge] = True
            kept.append(edge)
        if progress is not None:
            progress(done, len(edges))
    return Pruned(circuits.graph, tuple(kept), now, settings.threshold, len(edges))


def _candidates(
    bridge: "TransformerBridge", pairs: Contrasts, graph: Graph, settings: PruningSettings
) -> Sequence[Edge]:
    if len(graph.edges) <= (most := _most_edges(bridge, settings)):
        return graph.edges
    return attribute_edges(bridge, pairs, _ranking(settings)).ranked()[:most]


def _most_edges(bridge: "TransformerBridge", settings: PruningSettings) -> int:
    sizes = shape(bridge)
    return settings.max_edges or bounds_of(sizes.layers, sizes.width).edges


def _ranking(settings: PruningSettings) -> AttributionSettings:
    return AttributionSettings(
        "eap_ig", max_pairs=settings.max_pairs, batch_size=settings.batch_size, layers=settings.layers
    )


PRUNED = Table("acdc.json", Pruned.load, SPLITS)
QUALITY = Table("criteria.json", CircuitQuality.load, SPLITS)


def _run(job: AnalysisJob, folder: Path, progress: Progress | None) -> Metrics:
    """The edges that stay in each split's circuit, found on one half of its pairs and tested on the other."""
    settings = job.settings_of(PruningSettings)
    metrics: Metrics = {}
    for split in job.data.pairs:
        scored, tested = job.data.halves(split)
        pruned = prune(job.bridge, scored, settings, progress)
        pruned.save(folder / split)
        metrics[f"{split}/edges"] = float(len(pruned.kept))
        if pruned.kept:
            circuits = Circuits(job.bridge, tested.first(settings.max_pairs), settings.batch_size, pruned.graph)
            quality = measure_circuit(
                circuits, pruned.kept, draws=settings.draws, seed=settings.seed, progress=progress
            )
            quality.save(folder / split)
            metrics[f"{split}/faithfulness"] = quality.faithfulness
    return metrics


def _work(job: AnalysisJob) -> int:
    """At most: where every edge that is tried stays."""
    settings, rows = job.settings_of(PruningSettings), 0
    edges = len(Graph.of(job.bridge, settings.layers).edges)
    tried = min(edges, _most_edges(job.bridge, settings))
    ranking = gradient_rows(_ranking(settings)) if edges > tried else 0
    for split in job.data.pairs:
        scored, tested = job.data.half_sizes(split)
        rows += (ranking + 2 * (tried + 3)) * min(scored, settings.max_pairs)
        rows += 2 * (tried + 2 * settings.draws + 5) * min(tested, settings.max_pairs)
    return rows


def _draw(models: Models) -> Iterator[Sketch]:
    if pruned := labelled(models, PRUNED):
        yield Sketch("acdc", "What ACDC leaves", partial(draw_pruned, pruned))


def _findings(results: CircuitResults) -> Iterator[str]:
    """For each split, what is left, and its quality on other pairs."""
    for split, pruned in results.each(PRUNED).items():
        yield (
            f"{split}: {len(pruned.kept)} of {len(pruned.graph.edges)} edges stay (threshold {pruned.threshold:g}), "
            f"with faithfulness {number(pruned.faithfulness, 2)} on the pairs that they were found on."
        )
        if quality := results.each(QUALITY).get(split):
            yield (
                f"{split}, on other pairs: faithfulness {number(quality.faithfulness, 2)}, completeness "
                f"{number(quality.completeness, 2)}, incompleteness {number(quality.incompleteness, 2)}, minimality "
                f"{number(quality.minimality)} (idlest edge {quality.idlest.replace('->', '→')})."
            )


ANALYSIS = Analysis(
    "acdc",
    About(
        "Circuits by pruning (ACDC)",
        "Which edges can be dropped, one after the other, without a change of the answer's lead?",
        "Edges that stay are those whose loss changes faithfulness by the threshold or more. Minimality near 0 says "
        "that some edge is idle; incompleteness far from 0 says that the circuit reacts to damage otherwise than the "
        "whole model.",
    ),
    _run,
    settings={"acdc": PruningSettings},
    paired=True,
    meanings={
        "*/edges": "edges that are left when those that change least are dropped",
        "*/faithfulness": "share of the effect that those edges keep, on other pairs",
    },
    check=lambda job: check_layers(job.bridge, job.settings_of(PruningSettings).layers),
    work=_work,
    tables=(PRUNED, QUALITY),
    draw=_draw,
    findings=_findings,
    order=50,
)
