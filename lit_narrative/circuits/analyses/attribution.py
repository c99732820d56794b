"""Attribution: how much each edge or part carries of what tells two prompts apart, by gradients or one by one.

- ``eap``, edge attribution patching (Syed et al. 2023, https://arxiv.org/abs/2310.10348): what the source writes in the
  clean run less what it writes in the corrupt run, times the gradient of the logit difference with respect to what the
  destination reads, at the corrupt run. Positive: moving the source towards the clean run raises the difference.
- ``eap_ig`` (Hanna et al. 2024, https://arxiv.org/abs/2403.17806): the gradient averaged over runs whose input lies
  between the corrupt and the clean one. Here at the midpoints of K equal steps (the paper takes left end points).
- ``exact``: the corrupt run with one edge carrying clean activations; the change of the logit difference.

All three are means over the pairs, in logits.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, get_args

import numpy as np
import torch
from torch import Tensor

from lit_narrative.circuits.analyses.faithfulness import CurveSettings, Faithfulness, curve
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
    shared,
)
from lit_narrative.circuits.bridge import Hook, check_layers, separate_inputs
from lit_narrative.circuits.contrasts import Contrasts
from lit_narrative.circuits.figures.edges import draw_edges, draw_faithfulness
from lit_narrative.circuits.figures.parts import draw_parts
from lit_narrative.circuits.graph import LIMIT, Graph, Group, by_node, edge_mask, run_edges, written
from lit_narrative.circuits.hooks import Progress
from lit_narrative.circuits.inputs import AnalysisInputs, ask
from lit_narrative.circuits.overlap import overlap
from lit_narrative.circuits.records.edges import EdgeScores, Method, NodeScores
from lit_narrative.circuits.report.findings import NAMED, name_first, say_overlap
from lit_narrative.errors import UserError, check_least, did_you_mean
from lit_narrative.report.format import number

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True)
class AttributionSettings(AnalysisSettings):
    """How edges are scored.

    Args:
        method: see the module.
        steps: of ``eap_ig``.
        max_pairs: pairs used at most.
        max_edges: ``exact`` refuses models with more.
        batch_size: rows of one forward pass.
        layers: those whose parts have edges, or all; faithfulness is of circuits of these edges.
    """

    method: Method = "eap_ig"
    steps: int = 5
    max_pairs: int = 32
    max_edges: int = 2000
    batch_size: int = 256
    layers: Layers = "all"

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            near = did_you_mean(self.method, get_args(Method))
            raise UserError(f"attribution.method: no {self.method!r}{near}; choose from {', '.join(get_args(Method))}")
        for name in ("steps", "max_pairs", "max_edges", "batch_size"):
            check_least(f"attribution.{name}", getattr(self, name), 1)

    def tiny(self) -> Self:
        """One step alone."""
        return replace(self, steps=1)


def attribute_edges(
    bridge: "TransformerBridge",
    contrasts: Contrasts,
    settings: AttributionSettings | None = None,
    progress: Progress | None = None,
) -> EdgeScores:
    """Score every edge.

    Args:
        bridge: the model.
        contrasts: the pairs; the first ``max_pairs`` are used.
        settings: how.
        progress: called with (steps done, of how many).

    Raises:
        UserError: the model has no hooks of single heads, or too many edges to try one by one.
    """
    settings = settings or AttributionSettings()
    pairs, graph = contrasts.first(settings.max_pairs), Graph.of(bridge, settings.layers)
    if settings.method == "exact":
        return _exact(bridge, pairs, graph, settings, progress)
    scores = torch.zeros(graph.exists.shape, device=bridge.cfg.device)
    for difference, gradients in _gradients(bridge, pairs, graph, graph.readers, settings, progress):
        for group, gradient in zip(graph.readers, gradients, strict=True):
            # Sources are in the order in which they write: those that the group can read come first.
            before = int(graph.exists[:, group.start].sum())
            scores[:before, group.nodes] += difference[:before].flatten(1) @ by_node(gradient, group).flatten(1).T
    return EdgeScores(graph, (scores / len(pairs)).cpu().numpy(), settings.method)


def attribute_nodes(
    bridge: "TransformerBridge",
    contrasts: Contrasts,
    settings: AttributionSettings | None = None,
    progress: Progress | None = None,
) -> NodeScores:
    """Attribution patching of every part (Nanda 2023): what it writes clean less corrupt, times the gradient there.

    ``eap`` takes the gradient at the corrupt run, ``eap_ig`` the mean over the way to the clean input.

    Raises:
        UserError: the method is ``exact`` (patch the parts instead), or the model has no hooks of single heads.
    """
    settings = settings or AttributionSettings()
    if settings.method == "exact":
        raise UserError("attribution.method: parts are scored by eap or eap_ig; for exact figures patch them")
    pairs, graph = contrasts.first(settings.max_pairs), Graph.of(bridge, settings.layers)
    scores = torch.zeros(len(graph.sources), pairs.clean.shape[1], device=bridge.cfg.device)
    for difference, gradients in _gradients(bridge, pairs, graph, graph.writers, settings, progress):
        for group, gradient in zip(graph.writers, gradients, strict=True):
            scores[group.nodes] += (difference[group.nodes] * by_node(gradient, group)).sum((1, 3))
    return NodeScores(graph.sources, (scores / len(pairs)).cpu().numpy(), settings.method)


def _gradients(
    bridge: "TransformerBridge",
    pairs: Contrasts,
    graph: Graph,
    groups: Sequence[Group],
    settings: AttributionSettings,
    progress: Progress | None,
) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """For each batch of pairs and point on the way: (S, n, T, d) differences and the gradients of the groups."""
    steps = 1 if settings.method == "eap" else settings.steps
    # Midpoints: of K steps their error falls with K², that of left end points with K.
    points = [0.0] if settings.method == "eap" else [(step + 0.5) / steps for step in range(steps)]
    size = max(1, min(settings.batch_size, LIMIT // (pairs.clean.shape[1] * len(graph.sources) * bridge.cfg.d_model)))
    starts = range(0, len(pairs), size)
    with separate_inputs(bridge):
        for turn, start in enumerate(starts):
            rows = slice(start, start + size)
            corrupt_inputs = pairs.inputs("corrupt").rows(rows)
            _, clean = written(bridge, pairs.inputs("clean").rows(rows), graph)
            _, corrupt = written(bridge, corrupt_inputs, graph)
            difference = (clean - corrupt) / steps  # the mean over steps, taken once and not of every gradient
            for step, point in enumerate(points):
                embedded = corrupt[0] + point * (clean[0] - corrupt[0])
                yield difference, _backward(bridge, corrupt_inputs, embedded, groups)
                if progress is not None:
                    progress(turn * steps + step + 1, len(starts) * steps)


def _backward(
    bridge: "TransformerBridge", inputs: AnalysisInputs, embedded: Tensor, groups: Sequence[Group]
) -> list[Tensor]:
    """Gradients of the summed logit difference with respect to what the groups write or read."""
    leaf = embedded.detach().requires_grad_()
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Hook:
        def note(activation: Tensor, hook: Any) -> Tensor:
            # A node of its own in the autograd graph: the stream itself would collect the gradient of every reader.
            kept[name] = activation.clone()
            return kept[name]

        return name, note

    # The stream's first activation is replaced by a leaf, so that nothing before it needs gradients.
    first = ("blocks.0.hook_resid_pre", lambda activation, hook: leaf)
    with torch.enable_grad():
        total = ask(bridge, inputs, [first, *(keep(group.hook) for group in groups)]).logit_diff.sum()
    return list(torch.autograd.grad(total, [kept[group.hook] for group in groups]))


def _exact(
    bridge: "TransformerBridge",
    pairs: Contrasts,
    graph: Graph,
    settings: AttributionSettings,
    progress: Progress | None,
) -> EdgeScores:
    edges = graph.edges
    if len(edges) > settings.max_edges:
        raise UserError(
            f"the model has {len(edges)} edges, more than attribution.max_edges={settings.max_edges} to try one by "
            "one; raise it, name fewer `layers`, or use `method: eap_ig`"
        )
    with separate_inputs(bridge):
        _, clean = written(bridge, pairs.inputs("clean"), graph)
    masks = [edge_mask(graph, ()), *(edge_mask(graph, [edge]) for edge in edges)]
    patched = run_edges(bridge, pairs.inputs("corrupt"), clean, masks, graph, settings.batch_size, progress)
    # The first variant changes no edge: what each other one is compared with, from the same batches.
    effects = patched.logit_diff.mean(1).cpu().numpy()
    scores = np.zeros(graph.exists.shape, dtype=np.float32)
    scores[tuple(np.transpose(edges))] = effects[1:] - effects[0]
    return EdgeScores(graph, scores, "exact")


TOP = 0.1
"""Share of a model's edges that count as its circuit when two models are compared."""
ENOUGH = 0.9
"""Faithfulness from which a circuit is said to do most of what the model does."""
EDGES = Table("circuit.json", EdgeScores.load, SPLITS)
NODES = Table("nodes.json", NodeScores.load, SPLITS)
CURVES = Table("faithfulness.csv", Faithfulness.load, SPLITS)


def _run(job: AnalysisJob, folder: Path, progress: Progress | None) -> Metrics:
    """Scores of edges and parts on one half of each split's pairs, tested as circuits on the other half."""
    settings = job.settings_of(AttributionSettings)
    metrics: Metrics = {}
    for split in job.data.pairs:
        scored, tested = job.data.halves(split)
        edges = attribute_edges(job.bridge, scored, settings, progress)
        edges.save(folder / split)
        if settings.method != "exact":
            attribute_nodes(job.bridge, scored, settings, progress).save(folder / split)
        faithful = curve(job.bridge, tested, edges, job.settings_of(CurveSettings), progress)
        faithful.save(folder / split)
        metrics[f"{split}/cpr"] = faithful.cpr
    return metrics


def _work(job: AnalysisJob) -> int:
    settings, curves, rows = job.settings_of(AttributionSettings), job.settings_of(CurveSettings), 0
    edges = len(Graph.of(job.bridge, settings.layers).edges)
    each = 2 * (edges + 2) if settings.method == "exact" else 2 * gradient_rows(settings)
    for split in job.data.pairs:
        scored, tested = job.data.half_sizes(split)
        # Strongest, random and complementary circuits of each size, and the two ends.
        circuits = (len(curves.fractions) + 2) * (curves.random + 2) + 2
        rows += each * min(scored, settings.max_pairs) + 2 * circuits * min(tested, curves.max_pairs)
    return rows


def gradient_rows(settings: AttributionSettings) -> int:
    """Rows that the model reads for one pair to score edges, or parts, by gradients."""
    return 2 + 3 * (1 if settings.method == "eap" else settings.steps)


def _draw(models: Models) -> Iterator[Sketch]:
    for split, by_model in shared(models, EDGES).items():
        yield Sketch(f"edges_{split}", f"Strongest edges on {split}", partial(draw_edges, by_model))
    nodes = {label: dict(scores.ranked()) for label, scores in labelled(models, NODES).items()}
    if nodes:
        yield Sketch("nodes", "Scores of parts, summed over columns", partial(draw_parts, nodes, "score (logits)"))
    if splits := shared(models, CURVES):
        curves = {model: {split: by_model[model] for split, by_model in splits.items()} for model in models}
        yield Sketch("faithfulness", "Faithfulness of growing circuits", partial(draw_faithfulness, curves))


def _findings(results: CircuitResults) -> Iterator[str]:
    """For each split, the strongest edges, and how many of them do most of what the model does."""
    for split, edges in results.each(EDGES).items():
        named = name_first({f"{source}→{reader}": score for (source, reader), score in edges.named(NAMED).items()})
        yield f"{split}: the strongest of {len(edges.graph.edges)} edges ({edges.method}) are {named}."
        faithful = results.each(CURVES).get(split)
        if faithful is None:
            continue
        points = faithful.points
        point = next(point for point in points if point.faithfulness >= ENOUGH or point is points[-1])
        random = "" if point.random is None else f", as many random ones {number(point.random, 2)}"
        yield (
            f"{split}: the top {point.edges} of {points[-1].edges} edges recover "
            f"{number(point.faithfulness, 2)} of the answer's lead{random}. CPR {number(faithful.cpr, 2)} (random "
            f"{number(faithful.random_cpr, 2)}), CMD {number(faithful.cmd, 2)}."
        )


def _changes(old: CircuitResults, new: CircuitResults) -> dict[str, Any]:
    """For each split, whether both models have the same strongest edges (`Overlap`), and the faithfulness of both."""
    models = {"old": old, "new": new}
    circuits = {}
    for split, scores in shared(models, EDGES).items():
        a, b = scores["new"].magnitudes(), scores["old"].magnitudes()
        circuits[split] = asdict(overlap(a, b, max(1, round(TOP * len(a))), ("new", "old")))
    faithful = {
        split: {
            name: {"cpr": curve.cpr, "cmd": curve.cmd, "random_cpr": curve.random_cpr, "full": curve.full}
            for name, curve in curves.items()
        }
        for split, curves in shared(models, CURVES).items()
    }
    return {"circuits": circuits, "faithfulness": faithful}


def _change_findings(changes: Mapping[str, Any]) -> Iterator[str]:
    yield from say_overlap("edges", changes["circuits"])
    for split, both in changes["faithfulness"].items():
        cpr, random, cmd = (
            f"{number(both['old'][name], 2)} → {number(both['new'][name], 2)}" for name in ("cpr", "random_cpr", "cmd")
        )
        yield f"{split}: CPR {cpr} (random edges {random}), CMD {cmd}."


ANALYSIS = Analysis(
    "attribution",
    About(
        "Circuits by attribution",
        "Along which edges between parts does the answer come about? Edges are scored by {method} on one "
        "half of the pairs; on the other half, circuits of the strongest edges must do what the model does.",
        "A score is the edge's estimated effect on the answer's lead, in logits: red helps the right answer, blue "
        "hinders it. Faithfulness is 1 for the whole model and 0 for no edge; completeness says how much is lost "
        "without the circuit. The dashed grey line takes as many edges at random. CPR is the area under faithfulness "
        "(1 is best), CMD that of the distance from 1 (0 is best). The x axis is stretched near 0.",
        lambda settings: {"method": "patching each" if settings.get("method") == "exact" else "attribution patching"},
    ),
    _run,
    settings={"attribution": AttributionSettings, "faithfulness": CurveSettings},
    paired=True,
    meanings={"*/cpr": "share of the effect that circuits of the best edges keep, averaged over sizes"},
    check=lambda job: check_layers(job.bridge, job.settings_of(AttributionSettings).layers),
    work=_work,
    tables=(EDGES, NODES, CURVES),
    draw=_draw,
    findings=_findings,
    changes=_changes,
    change_findings=_change_findings,
    order=40,
)
