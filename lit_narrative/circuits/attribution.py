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
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from lit_narrative.circuits.bridge import Hook, separate_inputs, shape
from lit_narrative.circuits.contrasts import Contrasts
from lit_narrative.circuits.edge_scores import EdgeScores, NodeScores
from lit_narrative.circuits.edges import LIMIT, by_node, edge_mask, run_edges, written
from lit_narrative.circuits.graph import Graph, Group
from lit_narrative.circuits.questions import Questions, ask
from lit_narrative.circuits.sweep import Progress
from lit_narrative.errors import UserError, check_least, did_you_mean

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
