"""Runs in which single edges of the graph carry the other prompt's activations."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lit_narrative.circuits.bridge import Hook, separate_inputs
from lit_narrative.circuits.graph import Graph, Group
from lit_narrative.circuits.questions import Questions, Scores, ask
from lit_narrative.circuits.sweep import Progress, capture

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

LIMIT = 2**26
"""Numbers that the differences of all sources may take (256 MiB): fewer variants run together in a large model."""


def written(bridge: "TransformerBridge", questions: Questions, graph: Graph) -> tuple[Scores, Tensor]:
    """The answers, and what every source writes: (n, T, S, d). To be called within `separate_inputs`."""
    scores, kept = capture(bridge, questions, [group.hook for group in graph.writers])
    return scores, torch.cat([by_node(kept[group.hook], group) for group in graph.writers], 2)


def by_node(activation: Tensor, group: Group) -> Tensor:
    """An activation of a group as (n, T, nodes, d)."""
    return activation if group.heads else activation[:, :, None]


@torch.no_grad()
def run_edges(
    bridge: "TransformerBridge",
    questions: Questions,
    other: Tensor,
    changed: Sequence[np.ndarray],
    graph: Graph,
    batch_size: int,
    progress: Progress | None = None,
) -> Scores:
    """Answer the questions with some edges replaced: their destinations see what another run wrote.

    Args:
        bridge: the model.
        questions: n rows.
        other: (n, T, S, d), what each source wrote in the other run (`written`).
        changed: C arrays (S, D) bool, the edges replaced in each variant.
        graph: of the model.
        batch_size: rows of one forward pass; as many variants as fit, at least one.
        progress: told of the variants done.

    Returns:
        Scores of shape (C, M).
    """
    size, parts = max(1, min(batch_size // len(questions), LIMIT // other.numel())), []
    with separate_inputs(bridge):
        for start in range(0, len(changed), size):
            chunk = torch.from_numpy(np.stack(changed[start : start + size])).to(other)
            variants = questions.repeat(len(chunk))
            parts.append(ask(bridge, variants, _Replacement(other, chunk, graph).hooks()))
            if progress is not None:
                progress(min(start + size, len(changed)), len(changed))
    return Scores.join(parts).view(len(changed))


class _Replacement:
    """The hooks of one pass: sources note how the other run differs, destinations add it where an edge is replaced."""

    def __init__(self, other: Tensor, changed: Tensor, graph: Graph) -> None:
        self.other, self.changed, self.graph = other, changed, graph
        self.difference = other.new_zeros(len(changed), *other.shape)

    def hooks(self) -> list[Hook]:
        """Of all sources, and of the destinations that some variant changes."""
        writers = [(group.hook, self._note(group)) for group in self.graph.writers]
        return writers + [(group.hook, self._add(group)) for group in self.graph.readers if self._touched(group)]

    def _touched(self, group: Group) -> bool:
        return bool(self.changed[:, :, group.start : group.start + group.size].any())

    def _note(self, group: Group) -> Callable[[Tensor, Any], None]:
        nodes = slice(group.start, group.start + group.size)

        def note(activation: Tensor, hook: Any) -> None:
            own = by_node(activation, group).unflatten(0, self.difference.shape[:2])
            self.difference[..., nodes, :] = self.other[..., nodes, :] - own

        return note

    def _add(self, group: Group) -> Callable[[Tensor, Any], Tensor]:
        weights = self.changed[:, :, group.start : group.start + group.size]

        def add(activation: Tensor, hook: Any) -> Tensor:
            shift = torch.einsum("cntsd,csg->cntgd", self.difference, weights).flatten(0, 1)
            return activation + (shift if group.heads else shift[:, :, 0])

        return add


def edge_mask(graph: Graph, edges: Sequence[tuple[int, int]]) -> np.ndarray:
    """(S, D) bool, True at the edges."""
    mask = np.zeros_like(graph.exists)
    for source, reader in edges:
        mask[source, reader] = True
    return mask
