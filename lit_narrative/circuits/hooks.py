"""Hooks on a model: the activations of a run, and many interventions as the rows of one batch."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from lit_narrative.circuits.bridge import Hook, run, skipped
from lit_narrative.circuits.inputs import AnalysisInputs, Scores, ask

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


Edit = tuple[str, Callable[[Tensor], None]]
"""A hook's name, and what changes the activation (n, …) of an intervention's rows, in place."""
Mode = Literal["zero", "mean", "positional_mean", "resample"]
"""What an activation is replaced by in an ablation (`substitute`)."""
Progress = Callable[[int, int], None]
"""Called with the steps done, and of how many."""
BLOCK = r"blocks\.(\d+)\."
"""How the name of a hook within a block begins."""


@torch.no_grad()
def capture(
    bridge: "TransformerBridge", inputs: AnalysisInputs, names: Iterable[str], batch_size: int = 256
) -> tuple[Scores, dict[str, Tensor]]:
    """The scores of the answers, and the activations (n, T, …) at some hooks.

    Raises:
        UserError: a hook does not exist.
    """
    parts: list[Scores] = []
    kept: dict[str, list[Tensor]] = {name: [] for name in names}
    for start in range(0, len(inputs), batch_size):
        rows = inputs.rows(slice(start, start + batch_size))
        parts.append(ask(bridge, rows, [(name, _keeper(batches)) for name, batches in kept.items()]))
    return Scores.join(parts), {name: torch.cat(batches) for name, batches in kept.items()}


@torch.no_grad()
def read_hook(bridge: "TransformerBridge", inputs: AnalysisInputs, name: str, batch_size: int = 256) -> Tensor:
    """The activations (n, T, …) at a hook, without the blocks behind it and without logits.

    Raises:
        UserError: the hook does not exist.
    """
    kept: list[Tensor] = []
    inside = re.match(BLOCK, name)
    for start in range(0, len(inputs), batch_size):
        rows = inputs.rows(slice(start, start + batch_size)).to(bridge.cfg.device)
        layers = int(inside[1]) + 1 if inside else None
        run(bridge, rows.tokens, rows.mask, [(name, _keeper(kept))], rows.columns[:1], layers)
    return torch.cat(kept)


def _keeper(batches: list[Tensor]) -> Callable[[Tensor, Any], None]:
    # A copy: the model computes on with this very tensor, and may change it in place.
    return lambda activation, hook: batches.append(activation.detach().clone())


@torch.no_grad()
def batched_interventions(
    bridge: "TransformerBridge",
    inputs: AnalysisInputs,
    edits: Sequence[Edit],
    batch_size: int,
    progress: Progress | None = None,
) -> Scores:
    """Score the same inputs once for each edit, many edits in one forward pass.

    Args:
        bridge: the model.
        inputs: n rows.
        edits: E of them.
        batch_size: rows of one forward pass; as many edits of one layer as fit, at least one.
        progress: called with the edits done.

    Returns:
        Scores of shape (E, M).
    """
    parts: list[Scores] = []
    done, below = 0, _Below(bridge, inputs)
    # Layer by layer: what lies below the edits of a pass is not computed for each of them.
    order = sorted(range(len(edits)), key=lambda index: _layer(edits[index]))
    for layer, chunk in _chunks(order, edits, max(1, batch_size // len(inputs))):
        chosen = [edits[index] for index in chunk]
        below.rise(layer)
        parts.append(below.ask(len(chosen), _hooks(chosen, len(inputs))))
        done += len(chosen)
        if progress is not None:
            progress(done, len(edits))
    return Scores.join(parts).view(len(edits)).rows(torch.tensor(order).argsort())


def _chunks(order: Sequence[int], edits: Sequence[Edit], size: int) -> Iterator[tuple[int, Sequence[int]]]:
    """The edits of each pass, with their layer."""
    for layer, group in groupby(order, key=lambda index: _layer(edits[index])):
        indices = list(group)
        yield from ((layer, indices[start : start + size]) for start in range(0, len(indices), size))


def _layer(edit: Edit) -> int:
    """The layer of an edit's hook; 0 where it is outside the blocks."""
    found = re.match(BLOCK, edit[0])
    return int(found[1]) if found else 0


class _Below:
    """The layers below all edits of a pass: their residual stream is that of the unedited run, and is read once."""

    def __init__(self, bridge: "TransformerBridge", inputs: AnalysisInputs) -> None:
        self.bridge, self.inputs = bridge, inputs
        self.layer, self.stream = 0, torch.empty(0)
        self.usable = True

    def ask(self, copies: int, hooks: Sequence[Hook]) -> Scores:
        """Scores of copies of the inputs, under hooks that change nothing before the layer."""
        inputs = self.inputs.repeat(copies)
        if not self.layer:
            return ask(self.bridge, inputs, hooks)
        stream = self.stream.repeat(copies, 1, 1)
        start: Hook = (f"blocks.{self.layer}.hook_resid_pre", lambda activation, hook: stream)
        with skipped(self.bridge, self.layer):
            return ask(self.bridge, inputs, [start, *hooks])

    def rise(self, layer: int) -> None:
        """Take the stream before a later layer, read from the one before; of a model that allows it."""
        if layer <= self.layer or not self.usable:
            return
        kept: list[Tensor] = []
        plain: list[bool] = []
        handle = self.bridge.blocks[-1].register_forward_hook(lambda *call: plain.append(isinstance(call[-1], Tensor)))
        whole = self.ask(1, [(f"blocks.{layer}.hook_resid_pre", _keeper(kept))]).logit_diff
        handle.remove()
        # A block that gives a tuple cannot be left out so.
        self.usable = all(plain)
        if self.usable:
            self.layer, self.stream = layer, kept[0]
            # Tried, since layers of some models read more than the stream, such as the keys of earlier layers.
            self.usable = torch.allclose(self.ask(1, ()).logit_diff, whole, rtol=1e-4, atol=1e-4)
        if not self.usable:
            self.layer = 0


def _hooks(edits: Sequence[Edit], rows: int) -> list[Hook]:
    """One hook for each name: it changes the rows of each edit that names it."""
    by_name: dict[str, list[tuple[slice, Callable[[Tensor], None]]]] = defaultdict(list)
    for index, (name, change) in enumerate(edits):
        by_name[name].append((slice(index * rows, (index + 1) * rows), change))

    def hook(changes: list[tuple[slice, Callable[[Tensor], None]]]) -> Callable[[Tensor, Any], Tensor]:
        def apply(activation: Tensor, hook: Any) -> Tensor:
            changed = activation.clone()  # other nodes of the graph still read the tensor as it was
            for chosen, change in changes:
                change(changed[chosen])
            return changed

        return apply

    return [(name, hook(changes)) for name, changes in by_name.items()]


def substitute(
    source: Tensor, reference: AnalysisInputs, inputs: AnalysisInputs, mode: Mode, generator: torch.Generator
) -> Tensor:
    """What an activation is replaced by.

    Args:
        source: (r, S, …) activations of the reference rows.
        reference: the reference rows, padded on the left.
        inputs: the rows that are scored, (n, T).
        mode: ``zero``; ``mean`` over rows and columns; ``positional_mean`` over rows, column by column; ``resample``,
            another row's activation in the same column.
        generator: of the rows drawn.

    Returns:
        (1, 1, …), (1, T, …) or (n, T, …). Where no reference row reaches so far from the end, the mean over all
        columns.
    """
    if mode == "zero":
        return torch.zeros_like(source[:1, :1])
    weight = reference.mask.to(source).view(*reference.mask.shape, *[1] * (source.ndim - 2))
    mean = (source * weight).sum((0, 1), keepdim=True) / weight.sum()
    if mode == "mean":
        return mean
    width = inputs.tokens.shape[1]
    lacking = max(0, width - source.shape[1])
    # Rows end together (padding is on the left), so columns are matched from the end.
    filled = torch.where(weight.bool(), source, mean)[:, -width:]
    if mode == "resample":
        rows = torch.randint(len(source), (len(inputs),), generator=generator)
        return torch.cat([mean.expand(len(rows), lacking, *mean.shape[2:]), filled[rows]], 1)
    counts = weight.sum(0, keepdim=True)[:, -width:]
    by_column = (source * weight).sum(0, keepdim=True)[:, -width:] / counts.clamp(min=1)
    known = torch.where(counts > 0, by_column, mean)
    return torch.cat([mean.expand(1, lacking, *mean.shape[2:]), known], 1)


def shifted(progress: Progress | None, start: int, total: int) -> Progress | None:
    """The progress of one part of a longer job: its steps are counted from ``start``, of ``total``."""
    return None if progress is None else lambda done, _: progress(start + done, total)
