"""A transformer as a graph: what each part writes to the residual stream, and which later parts read it.

Sources write: ``input`` (the embedding), heads ``a{l}.h{h}`` and MLPs ``m{l}``. Destinations read: each head's query,
key and value (``a{l}.h{h}<q>`` …; with grouped queries keys and values are shared, so there are fewer), MLPs, and
``logits``. An edge joins a source to every destination that reads after it writes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lit_narrative.circuits.bridge import Hook, check_layers, separate_inputs, shape
from lit_narrative.circuits.hooks import Progress, capture
from lit_narrative.circuits.inputs import AnalysisInputs, Scores, ask

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


Edge = tuple[int, int]
"""Index of a source and of a destination."""


class Group(NamedTuple):
    """Neighbouring nodes that share a hook: heads, or a single part.

    Attributes:
        hook: its name.
        start: index of the first node.
        size: number of nodes.
        heads: whether the activation has an axis of heads (n, T, heads, d).
        stage: when it writes or reads; an edge goes from a lower stage to a higher one.
    """

    hook: str
    start: int
    size: int
    heads: bool
    stage: int

    @property
    def nodes(self) -> slice:
        """The indices of its nodes."""
        return slice(self.start, self.start + self.size)


@dataclass(frozen=True, eq=False)
class Graph:
    """The edges of a model, S sources and D destinations.

    Args:
        layers: number of blocks.
        heads: of each attention.
        kv_heads: keys and values of each attention.
        chosen: the blocks whose parts are nodes, beside the input and the logits; None for all. Parts of other blocks
            have no edges: they compute as ever, and an edge between chosen blocks passes them by.
    """

    layers: int
    heads: int
    kv_heads: int
    chosen: Sequence[int] | None = None
    sources: tuple[str, ...] = field(init=False)
    destinations: tuple[str, ...] = field(init=False)
    writers: tuple[Group, ...] = field(init=False)
    readers: tuple[Group, ...] = field(init=False)
    exists: np.ndarray = field(init=False)
    """(S, D) bool: whether there is such an edge."""

    def __post_init__(self) -> None:
        sources, writers = _number(self._writers())
        destinations, readers = _number(self._readers())
        write, read = (
            np.concatenate([np.full(group.size, group.stage) for group in groups]) for groups in (writers, readers)
        )
        derived: dict[str, object] = {
            "sources": sources,
            "writers": writers,
            "destinations": destinations,
            "readers": readers,
        }
        derived["exists"] = write[:, None] < read[None]
        for name, value in derived.items():
            object.__setattr__(self, name, value)  # the fields are frozen, and derived from the sizes

    @classmethod
    def of(cls, bridge: "TransformerBridge", layers: Literal["all"] | Sequence[int] = "all") -> "Graph":
        """The graph of a model, or of some of its layers.

        Raises:
            UserError: there is no such layer.
        """
        sizes, chosen = shape(bridge), check_layers(bridge, layers)
        return cls(sizes.layers, sizes.heads, sizes.kv_heads, None if len(chosen) == sizes.layers else chosen)

    def sizes(self) -> dict[str, Any]:
        """The arguments that make this graph, for JSON."""
        sizes: dict[str, Any] = {"layers": self.layers, "heads": self.heads, "kv_heads": self.kv_heads}
        return sizes if self.chosen is None else {**sizes, "chosen": list(self.chosen)}

    def _blocks(self) -> Sequence[int]:
        return range(self.layers) if self.chosen is None else self.chosen

    # Stages: 0 is the embedding; layer l's attention is 2l + 1 and its MLP 2l + 2; the logits read last.

    def _writers(self) -> Iterable[tuple[str, list[str], bool, int]]:
        yield "blocks.0.hook_resid_pre", ["input"], False, 0
        for layer in self._blocks():
            heads = [f"a{layer}.h{head}" for head in range(self.heads)]
            yield f"blocks.{layer}.attn.hook_result", heads, True, 2 * layer + 1
            yield f"blocks.{layer}.hook_mlp_out", [f"m{layer}"], False, 2 * layer + 2

    def _readers(self) -> Iterable[tuple[str, list[str], bool, int]]:
        for layer in self._blocks():
            for letter, count in (("q", self.heads), ("k", self.kv_heads), ("v", self.kv_heads)):
                heads = [f"a{layer}.h{head}<{letter}>" for head in range(count)]
                yield f"blocks.{layer}.hook_{letter}_input", heads, True, 2 * layer + 1
            yield f"blocks.{layer}.hook_mlp_in", [f"m{layer}"], False, 2 * layer + 2
        yield f"blocks.{self.layers - 1}.hook_resid_post", ["logits"], False, 2 * self.layers + 1

    def readers_at(self, stage: int) -> slice:
        """The indices of the destinations that read at a stage."""
        groups = [group for group in self.readers if group.stage == stage]
        return slice(groups[0].start, groups[-1].nodes.stop)

    @property
    def edges(self) -> list[Edge]:
        """Every edge, by source."""
        return [(int(source), int(reader)) for source, reader in np.argwhere(self.exists)]

    def name(self, edge: Edge) -> str:
        """``a0.h1->m1``."""
        return f"{self.sources[edge[0]]}->{self.destinations[edge[1]]}"


def _number(parts: Iterable[tuple[str, list[str], bool, int]]) -> tuple[tuple[str, ...], tuple[Group, ...]]:
    names: list[str] = []
    groups = []
    for hook, nodes, heads, stage in parts:
        groups.append(Group(hook, len(names), len(nodes), heads, stage))
        names += nodes
    return tuple(names), tuple(groups)


def node_of(destination: str) -> str:
    """The part that a destination belongs to: ``a0.h1`` of ``a0.h1<q>``."""
    return destination.split("<")[0]


def to_dot(edges: Mapping[tuple[str, str], float], label: Callable[[float], str] = "{:.2g}".format) -> str:
    """Graphviz text of some edges (source, destination) with their scores; thicker is stronger, red is negative."""
    largest = max((abs(score) for score in edges.values()), default=0.0) or 1.0
    lines = ["digraph circuit {", "  rankdir=BT;", '  node [shape=box, style="rounded", fontname="Helvetica"];']
    for (source, destination), score in edges.items():
        slot = destination[len(node_of(destination)) :].strip("<>")
        text = " ".join(filter(None, (slot, label(score))))
        color = "firebrick" if score < 0 else "steelblue"
        width = 0.5 + 4 * abs(score) / largest
        target = node_of(destination)
        lines.append(f'  "{source}" -> "{target}" [label="{text}", color={color}, penwidth={width:.2f}];')
    return "\n".join([*lines, "}", ""])


LIMIT = 2**26
"""Numbers that the differences of all sources may take (256 MiB): in a large model fewer variants run together."""


def written(bridge: "TransformerBridge", inputs: AnalysisInputs, graph: Graph) -> tuple[Scores, Tensor]:
    """Scores of the answers, and what every source writes: (S, n, T, d). To be called within `separate_inputs`."""
    scores, kept = capture(bridge, inputs, [group.hook for group in graph.writers])
    return scores, torch.cat([by_node(kept[group.hook], group) for group in graph.writers])


def by_node(activation: Tensor, group: Group) -> Tensor:
    """An activation of a group as (nodes, n, T, d)."""
    return activation.movedim(2, 0) if group.heads else activation[None]


@torch.no_grad()
def run_edges(
    bridge: "TransformerBridge",
    inputs: AnalysisInputs,
    other: Tensor,
    changed: Sequence[np.ndarray],
    graph: Graph,
    batch_size: int,
    progress: Progress | None = None,
) -> Scores:
    """Score the answers with some edges replaced: their destinations read what another run wrote.

    Args:
        bridge: the model.
        inputs: n rows.
        other: (S, n, T, d), what each source wrote in the other run (`written`).
        changed: C arrays (S, D) bool, the edges replaced in each variant.
        graph: of the model.
        batch_size: rows of one forward pass; as many variants as fit, at least one.
        progress: called with the variants done.

    Returns:
        Scores of shape (C, M).
    """
    size, parts = max(1, min(batch_size // len(inputs), LIMIT // other.numel())), []
    with separate_inputs(bridge):
        for start in range(0, len(changed), size):
            chunk = torch.from_numpy(np.stack(changed[start : start + size])).to(other)
            variants = inputs.repeat(len(chunk))
            parts.append(ask(bridge, variants, _Replacement(other, chunk, graph).hooks()))
            if progress is not None:
                progress(min(start + size, len(changed)), len(changed))
    return Scores.join(parts).view(len(changed))


class _Replacement:
    """The hooks of one pass: a source notes how the other run differs, a destination adds it where an edge is replaced.

    The difference is taken from what this pass writes, so that a replaced edge carries exactly the other run's
    activation, also where earlier replacements have changed the source.
    """

    def __init__(self, other: Tensor, changed: Tensor, graph: Graph) -> None:
        self.other, self.changed, self.graph = other, changed, graph
        # Sources first: those that a destination can read lie one behind the other, and its product copies nothing.
        self.difference = other.new_zeros(len(changed), *other.shape)
        self.shifts: tuple[int, Tensor] | None = None

    def hooks(self) -> list[Hook]:
        """Of the sources and the destinations of edges that some variant changes."""
        writers = [group for group in self.graph.writers if self.changed[:, group.nodes].any()]
        readers = [group for group in self.graph.readers if self.changed[:, :, group.nodes].any()]
        notes = [(group.hook, self._note(group)) for group in writers]
        return [*notes, *((group.hook, self._add(group)) for group in readers)]

    def _note(self, group: Group) -> Callable[[Tensor, Any], None]:
        def note(activation: Tensor, hook: Any) -> None:
            current = by_node(activation, group).unflatten(1, (len(self.changed), -1)).transpose(0, 1)
            torch.sub(self.other[group.nodes], current, out=self.difference[:, group.nodes])

        return note

    def _add(self, group: Group) -> Callable[[Tensor, Any], Tensor]:
        stage = self.graph.readers_at(group.stage)
        nodes = slice(group.start - stage.start, group.start - stage.start + group.size)

        def add(activation: Tensor, hook: Any) -> Tensor:
            # Queries, keys and values of a layer read the same sources: one product serves all three.
            if self.shifts is None or self.shifts[0] != group.stage:
                self.shifts = (group.stage, self._product(stage))
            shift = self.shifts[1][:, nodes].movedim(1, 3).flatten(0, 1)
            return activation + (shift if group.heads else shift[:, :, 0])

        return add

    def _product(self, readers: slice) -> Tensor:
        """What replaced edges add to destinations, (C, readers, n, T, d)."""
        weights = self.changed[:, :, readers]
        replaced = weights.any(2).any(0).nonzero()
        # In an ordinary circuit these are all sources that write before the destinations read, and no later ones.
        sources = slice(int(replaced[0]), int(replaced[-1]) + 1)
        product = weights[:, sources].mT @ self.difference[:, sources].flatten(2)
        return product.unflatten(2, self.other.shape[1:])


def edge_mask(graph: Graph, edges: Sequence[tuple[int, int]]) -> np.ndarray:
    """(S, D) bool, True at the edges."""
    mask = np.zeros_like(graph.exists)
    for source, reader in edges:
        mask[source, reader] = True
    return mask
