"""Attention: where heads look, as the mean weight of every head from one named position to another."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

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
    shared,
)
from lit_narrative.circuits.bridge import check_layers, shape
from lit_narrative.circuits.figures.heat_maps import draw_attention
from lit_narrative.circuits.hooks import Progress, capture
from lit_narrative.circuits.inputs import AnalysisInputs, Positions
from lit_narrative.circuits.records.attention import Attention, Look
from lit_narrative.circuits.report.findings import NAMED
from lit_narrative.errors import UserError
from lit_narrative.report.format import number

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


HELD = 2**26
"""Attention weights held at once (256 MiB): of a large model or long rows, fewer rows are read together."""


@dataclass(frozen=True)
class AttentionSettings(AnalysisSettings):
    """Which heads are read.

    Args:
        layers: those whose heads are, or all.
    """

    layers: Layers = "all"


def attend(
    bridge: "TransformerBridge",
    inputs: AnalysisInputs,
    batch_size: int = 64,
    progress: Progress | None = None,
    layers: Layers = "all",
) -> Attention:
    """Mean attention between the named positions of rows.

    Args:
        bridge: the model.
        inputs: the rows; of positions that are the same column in every row only the first is kept.
        batch_size: rows of one forward pass at most.
        progress: called with (rows read, of how many).
        layers: those whose heads are read.

    Raises:
        UserError: the rows have no named positions, or there is no such layer.
    """
    if inputs.positions is None:
        raise UserError("the rows have no named positions between which heads could look")
    heads, positions, chosen = shape(bridge).heads, _distinct(inputs.positions), check_layers(bridge, layers)
    # Patterns take T² numbers for every head: batches shrink so that those of all layers fit together.
    hooks = [f"blocks.{layer}.attn.hook_pattern" for layer in chosen]
    names = positions.names
    # In double precision: sums over all rows must not depend on the size of the batches.
    total = torch.zeros(len(chosen), heads, len(names), len(names), dtype=torch.float64)
    count = torch.zeros(len(names), len(names), dtype=torch.long)
    batch_size = max(1, min(batch_size, HELD // (len(chosen) * heads * inputs.tokens.shape[1] ** 2)))
    for start in range(0, len(inputs), batch_size):
        rows = slice(start, start + batch_size)
        _, kept = capture(bridge, inputs.rows(rows), hooks, batch_size)
        columns = positions.columns[rows]
        both = _looks(columns)
        count += both.sum(0)
        for index, hook in enumerate(hooks):
            total[index] += (_between(kept[hook].cpu(), columns) * both[:, None]).sum(0)
        if progress is not None:
            progress(min(start + batch_size, len(inputs)), len(inputs))
    return Attention(tuple(_rows(chosen, total, count, names)))


def _distinct(positions: Positions) -> Positions:
    """The positions without those that are the column of an earlier one in every row."""
    first: dict[tuple[int, ...], str] = {}
    for name in positions.names:
        first.setdefault(tuple(positions.column(name).tolist()), name)
    return positions.pick(list(first.values()))


def _looks(columns: Tensor) -> Tensor:
    """(n, P, P): whether a row has both positions, the key not after the query."""
    query, key = columns[:, :, None], columns[:, None, :]
    return (key >= 0) & (query >= key)


def _between(pattern: Tensor, columns: Tensor) -> Tensor:
    """(n, heads, P, P) of a pattern (n, heads, T, T); a missing position (-1) reads the last column, masked later."""
    rows = torch.arange(len(pattern))[:, None, None]
    return pattern[rows, :, columns[:, :, None], columns[:, None, :]].movedim(-1, 1).double()


def _rows(layers: Sequence[int], total: Tensor, count: Tensor, names: Sequence[str]) -> list[Look]:
    seen = [(q, k, int(count[q, k])) for q in range(len(names)) for k in range(len(names)) if count[q, k]]
    return [
        Look(layer, head, names[q], names[k], n, float(total[index, head, q, k]) / n)
        for index, layer in enumerate(layers)
        for head in range(total.shape[1])
        for q, k, n in seen
    ]


TABLE = Table("attention.csv", Attention.load, SPLITS)


def _run(job: AnalysisJob, folder: Path, progress: Progress | None) -> Metrics:
    """Where each head looks, between the positions that the task names."""
    layers = job.settings_of(AttentionSettings).layers
    for split, inputs in job.data.inputs.items():
        attend(job.bridge, inputs, progress=progress, layers=layers).save(folder / split)
    return {}


def _draw(models: Models) -> Iterator[Sketch]:
    for split, by_model in shared(models, TABLE).items():
        yield Sketch(f"attention_{split}", f"Where heads look on {split}", partial(draw_attention, by_model))


def _findings(results: CircuitResults) -> Iterator[str]:
    """For each split, the strongest looks of one position at another."""
    for split, attention in results.each(TABLE).items():
        looks = sorted((row for row in attention.rows if row.query != row.key), key=lambda row: -row.weight)
        named = "; ".join(
            f"a{row.layer}.h{row.head} from {row.query} to {row.key} ({number(row.weight, 2)})" for row in looks[:NAMED]
        )
        yield f"{split}: most attention to another named position: {named or 'none'}."


ANALYSIS = Analysis(
    "attention",
    About(
        "Attention",
        "Where does each head look?",
        "Rows are the positions that look, columns those that are looked at; a cell is the mean weight over the rows "
        "that have both. Weights to positions without a name are not shown, so that a row may add up to less than 1. "
        "Looking at a position is not yet using it.",
    ),
    _run,
    settings={"attention": AttentionSettings},
    check=lambda job: check_layers(job.bridge, job.settings_of(AttentionSettings).layers),
    work=lambda job: sum(map(len, job.data.inputs.values())),
    tables=(TABLE,),
    draw=_draw,
    findings=_findings,
    order=70,
)
