"""A transformer as a graph: what each part writes to the residual stream, and which later parts read it.

Parts that write (sources): ``input`` (the embedding), heads ``a{l}.h{h}`` and MLPs ``m{l}``. Places that read
(destinations): each head's query, key and value (``a{l}.h{h}<q>`` …; with grouped queries keys and values are shared,
so there are fewer), MLPs, and ``logits``. An edge joins a source to every destination that reads after it writes.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from lit_narrative.circuits.bridge import Shape

Edge = tuple[int, int]
"""Positions of a source and of a destination."""


class Group(NamedTuple):
    """Neighbouring nodes that share a hook: heads, or a single part.

    Attributes:
        hook: its name.
        start: position of the first node.
        size: number of nodes.
        heads: whether the activation has an axis of heads (n, T, heads, d).
        stage: when it writes or reads; an edge goes from a lower stage to a higher one.
    """

    hook: str
    start: int
    size: int
    heads: bool
    stage: int


@dataclass(frozen=True, eq=False)
class Graph:
    """All edges of a model, S sources and D destinations.

    Args:
        layers: number of blocks.
        heads: of each attention.
        kv_heads: keys and values of each attention.
    """

    layers: int
    heads: int
    kv_heads: int
    sources: tuple[str, ...] = field(init=False)
    destinations: tuple[str, ...] = field(init=False)
    writers: tuple[Group, ...] = field(init=False)
    readers: tuple[Group, ...] = field(init=False)
    exists: np.ndarray = field(init=False)
    """(S, D) bool: whether there is such an edge."""

    def __post_init__(self) -> None:
        made: dict[str, object] = {}
        made["sources"], made["writers"] = _number(self._writers())
        made["destinations"], made["readers"] = _number(self._readers())
        write, read = (
            np.concatenate([np.full(group.size, group.stage) for group in made[name]])  # type: ignore[attr-defined]
            for name in ("writers", "readers")
        )
        made["exists"] = write[:, None] < read[None]
        for name, value in made.items():
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, sizes: Shape) -> "Graph":
        """The graph of a model."""
        return cls(sizes.layers, sizes.heads, sizes.kv_heads)

    def _writers(self) -> Iterable[tuple[str, list[str], bool, int]]:
        yield "blocks.0.hook_resid_pre", ["input"], False, 0
        for layer in range(self.layers):
            heads = [f"a{layer}.h{head}" for head in range(self.heads)]
            yield f"blocks.{layer}.attn.hook_result", heads, True, 2 * layer + 1
            yield f"blocks.{layer}.hook_mlp_out", [f"m{layer}"], False, 2 * layer + 2

    def _readers(self) -> Iterable[tuple[str, list[str], bool, int]]:
        for layer in range(self.layers):
            for letter, count in (("q", self.heads), ("k", self.kv_heads), ("v", self.kv_heads)):
                heads = [f"a{layer}.h{head}<{letter}>" for head in range(count)]
                yield f"blocks.{layer}.hook_{letter}_input", heads, True, 2 * layer + 1
            yield f"blocks.{layer}.hook_mlp_in", [f"m{layer}"], False, 2 * layer + 2
        yield f"blocks.{self.layers - 1}.hook_resid_post", ["logits"], False, 2 * self.layers + 1

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
    for hook, own, heads, stage in parts:
        groups.append(Group(hook, len(names), len(own), heads, stage))
        names += own
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
