"""Hooks on a model: the activations of a run, and many interventions as the rows of one batch."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from lit_narrative.circuits.bridge import Hook
from lit_narrative.circuits.inputs import AnalysisInputs, Scores, ask

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


Edit = tuple[str, Callable[[Tensor], None]]
"""A hook's name, and what changes the activation (n, …) of an intervention's rows, in place."""
Mode = Literal["zero", "mean", "positional_mean", "resample"]
"""What an activation is replaced by in an ablation (`substitute`)."""
Progress = Callable[[int, int], None]
"""Called with the steps done, and of how many."""


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
        batch_size: rows of one forward pass; as many edits as fit, at least one.
        progress: called with the edits done.

    Returns:
        Scores of shape (E, M).
    """
    parts, done = [], 0
    for chunk in _chunks(edits, max(1, batch_size // len(inputs))):
        hooks = _hooks(chunk, len(inputs))
        parts.append(ask(bridge, inputs.repeat(len(chunk)), hooks))
        done += len(chunk)
        if progress is not None:
            progress(done, len(edits))
    return Scores.join(parts).view(len(edits))


def _chunks(edits: Sequence[Edit], size: int) -> Iterator[Sequence[Edit]]:
    return (edits[start : start + size] for start in range(0, len(edits), size))


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
