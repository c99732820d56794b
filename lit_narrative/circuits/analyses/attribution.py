"""How much each edge or part carries of what tells two prompts apart: by gradients, or exactly, one by one.

- ``eap``, edge attribution patching (Syed et al. 2023, https://arxiv.org/abs/2310.10348): what the source writes in the
  clean run less what it writes in the corrupt run, times the gradient of the logit difference with respect to what the
  destination reads, at the corrupt run. Positive: moving the source towards the clean run raises the difference.
- ``eap_ig`` (Hanna et al. 2024, https://arxiv.org/abs/2403.17806): the gradient averaged over runs whose input lies
  between the corrupt and the clean one. Here at the midpoints of K equal steps (the paper takes left end points).
- ``exact``: the corrupt run with one edge carrying clean activations; the change of the logit difference.

All three are means over the pairs, in logits.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

import numpy as np
import torch
from torch import Tensor

from lit_narrative.circuits.bridge import Hook, separate_inputs, shape
from lit_narrative.circuits.contrasts import Contrasts
from lit_narrative.circuits.graph import LIMIT, Edge, Graph, Group, by_node, edge_mask, run_edges, to_dot, written
from lit_narrative.circuits.hooks import Progress
from lit_narrative.circuits.inputs import Questions, ask
from lit_narrative.circuits.tables import read_arrays, read_json, write_arrays
from lit_narrative.errors import UserError, check_least, did_you_mean
from lit_narrative.files import write_json, write_text

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


Method = Literal["eap", "eap_ig", "exact"]


@dataclass(frozen=True)
class AttributionSettings:
    """How edges are scored.

    Args:
        method: see the module.
        steps: of ``eap_ig``.
        max_pairs: pairs used at most.
        max_edges: ``exact`` refuses models with more.
        batch_size: rows of one forward pass.
    """

    method: Method = "eap_ig"
    steps: int = 5
    max_pairs: int = 32
    max_edges: int = 2000
    batch_size: int = 256

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            near = did_you_mean(self.method, get_args(Method))
            raise UserError(f"attribution.method: no {self.method!r}{near}; choose from {', '.join(get_args(Method))}")
        for name in ("steps", "max_pairs", "max_edges", "batch_size"):
            check_least(f"attribution.{name}", getattr(self, name), 1)


@dataclass(frozen=True, eq=False)
class EdgeScores:
    """A score for every edge.

    Attributes:
        graph: of the model.
        scores: (S, D) float32, 0 where there is no edge.
        method: how they were found.
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
        """Every edge's magnitude by its name, to be compared with another model's (`importance.overlap`)."""
        return {self.graph.name(edge): abs(float(self.scores[edge])) for edge in self.graph.edges}

    def named(self, count: int) -> dict[tuple[str, str], float]:
        """The strongest edges by (source, destination)."""
        graph = self.graph
        top = self.ranked()[:count]
        return {(graph.sources[s], graph.destinations[d]): float(self.scores[s, d]) for s, d in top}

    def save(self, folder: str | Path, top: int = 30) -> Path:
        """Write circuit.json (sizes, method, the strongest edges), circuit.dot and circuit.safetensors (all scores)."""
        folder, graph = Path(folder), self.graph
        sizes = {"layers": graph.layers, "heads": graph.heads, "kv_heads": graph.kv_heads}
        edges = [{"source": a, "destination": b, "score": score} for (a, b), score in self.named(top).items()]
        counts = {"sources": len(graph.sources), "destinations": len(graph.destinations), "edges": len(graph.edges)}
        write_json(folder / "circuit.json", {"method": self.method, "graph": sizes, **counts, "top_edges": edges})
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
        UserError: The model cannot be taken apart, or has too many edges to try one by one.
    """
    settings = settings or AttributionSettings()
    pairs, graph = contrasts.first(settings.max_pairs), Graph.of(shape(bridge))
    if settings.method == "exact":
        return _exact(bridge, pairs, graph, settings, progress)
    scores = torch.zeros(graph.exists.shape, device=bridge.cfg.device)
    for difference, gradients in _gradients(bridge, pairs, graph, graph.readers, settings, progress):
        for group, gradient in zip(graph.readers, gradients, strict=True):
            own = torch.einsum("ntsd,ntgd->sg", difference, by_node(gradient, group))
            scores[:, group.start : group.start + group.size] += own
    scores *= torch.from_numpy(graph.exists).to(scores)
    return EdgeScores(graph, (scores / len(pairs)).cpu().numpy(), settings.method)


@dataclass(frozen=True, eq=False)
class NodeScores:
    """A score for every part, place by place.

    Attributes:
        sources: names of the parts.
        scores: (S, T) float32; the columns are those of the contrasts.
        method: how they were found.
    """

    sources: tuple[str, ...]
    scores: np.ndarray
    method: str

    def ranked(self) -> list[tuple[str, float]]:
        """Parts with their scores over all places, the largest magnitude first."""
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


def attribute_nodes(
    bridge: "TransformerBridge",
    contrasts: Contrasts,
    settings: AttributionSettings | None = None,
    progress: Progress | None = None,
) -> NodeScores:
    """Attribution patching of every part (Nanda 2023): what it writes clean less corrupt, times the gradient there.

    ``eap`` takes the gradient at the corrupt run, ``eap_ig`` the mean over the way to the clean input.

    Raises:
        UserError: The method is ``exact`` (patch the parts instead), or the model cannot be taken apart.
    """
    settings = settings or AttributionSettings()
    if settings.method == "exact":
        raise UserError("attribution.method: parts are scored by eap or eap_ig; for exact figures patch them")
    pairs, graph = contrasts.first(settings.max_pairs), Graph.of(shape(bridge))
    scores = torch.zeros(len(graph.sources), pairs.clean.shape[1], device=bridge.cfg.device)
    for difference, gradients in _gradients(bridge, pairs, graph, graph.writers, settings, progress):
        for group, gradient in zip(graph.writers, gradients, strict=True):
            nodes = slice(group.start, group.start + group.size)
            scores[nodes] += torch.einsum("ntsd,ntsd->st", difference[:, :, nodes], by_node(gradient, group))
    return NodeScores(graph.sources, (scores / len(pairs)).cpu().numpy(), settings.method)


def _gradients(
    bridge: "TransformerBridge",
    pairs: Contrasts,
    graph: Graph,
    groups: Sequence[Group],
    settings: AttributionSettings,
    progress: Progress | None,
) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """For a batch of pairs and a point on the way: (n, T, S, d) differences and the gradients of the groups."""
    steps = 1 if settings.method == "eap" else settings.steps
    points = [0.0] if settings.method == "eap" else [(step + 0.5) / steps for step in range(steps)]
    size = max(1, min(settings.batch_size, LIMIT // (pairs.clean.shape[1] * len(graph.sources) * bridge.cfg.d_model)))
    starts = range(0, len(pairs), size)
    with separate_inputs(bridge):
        for turn, start in enumerate(starts):
            rows = slice(start, start + size)
            corrupt_questions = pairs.questions("corrupt").rows(rows)
            _, clean = written(bridge, pairs.questions("clean").rows(rows), graph)
            _, corrupt = written(bridge, corrupt_questions, graph)
            difference = (clean - corrupt) / steps
            for step, point in enumerate(points):
                embedded = corrupt[:, :, 0] + point * (clean[:, :, 0] - corrupt[:, :, 0])
                yield difference, _backward(bridge, corrupt_questions, embedded, groups)
                if progress is not None:
                    progress(turn * steps + step + 1, len(starts) * steps)


def _backward(
    bridge: "TransformerBridge", questions: Questions, embedded: Tensor, groups: Sequence[Group]
) -> list[Tensor]:
    """Gradients of the summed logit difference with respect to what the groups write or read."""
    leaf = embedded.detach().requires_grad_()
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Hook:
        def note(activation: Tensor, hook: Any) -> Tensor:
            kept[name] = activation.clone()  # apart from the stream, so that the gradient is of this reader alone
            return kept[name]

        return name, note

    first = ("blocks.0.hook_resid_pre", lambda activation, hook: leaf)
    with torch.enable_grad():
        total = ask(bridge, questions, [first, *(keep(group.hook) for group in groups)]).logit_diff.sum()
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
            "one; raise it, or use `method: eap_ig`"
        )
    with separate_inputs(bridge):
        _, clean = written(bridge, pairs.questions("clean"), graph)
    masks = [edge_mask(graph, ()), *(edge_mask(graph, [edge]) for edge in edges)]
    found = run_edges(bridge, pairs.questions("corrupt"), clean, masks, graph, settings.batch_size, progress)
    effects = found.logit_diff.mean(1).cpu().numpy()
    scores = np.zeros(graph.exists.shape, dtype=np.float32)
    scores[tuple(np.transpose(edges))] = effects[1:] - effects[0]
    return EdgeScores(graph, scores, "exact")
