"""Many variants of one run as the rows of one batch, and the activations of a run."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lit_narrative.circuits.bridge import Hook
from lit_narrative.circuits.inputs import Questions, Scores, ask

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


Edit = tuple[str, Callable[[Tensor], None]]
"""A hook's name, and what changes the activation (n, …) of a variant's rows, in place."""
Progress = Callable[[int, int], None]
"""Told how many steps are done, and of how many."""


@torch.no_grad()
def capture(
    bridge: "TransformerBridge", questions: Questions, names: Iterable[str], batch_size: int = 256
) -> tuple[Scores, dict[str, Tensor]]:
    """The answers, and the activations (n, T, …) at some hooks.

    Raises:
        UserError: A hook does not exist.
    """
    parts: list[Scores] = []
    kept: dict[str, list[Tensor]] = {name: [] for name in names}
    for start in range(0, len(questions), batch_size):
        own = questions.rows(slice(start, start + batch_size))
        parts.append(ask(bridge, own, [(name, _keeper(found)) for name, found in kept.items()]))
    return Scores.join(parts), {name: torch.cat(found) for name, found in kept.items()}


def _keeper(found: list[Tensor]) -> Callable[[Tensor, Any], None]:
    return lambda activation, hook: found.append(activation.detach().clone())


@torch.no_grad()
def sweep(
    bridge: "TransformerBridge",
    questions: Questions,
    edits: Sequence[Edit],
    batch_size: int,
    progress: Progress | None = None,
) -> Scores:
    """Answer the same questions once for each edit.

    Args:
        bridge: the model.
        questions: n rows.
        edits: E of them.
        batch_size: rows of one forward pass; as many variants as fit, at least one.
        progress: told of the edits done.

    Returns:
        Scores of shape (E, M).
    """
    parts, done = [], 0
    for chunk in _chunks(edits, max(1, batch_size // len(questions))):
        hooks = _hooks(chunk, len(questions))
        parts.append(ask(bridge, questions.repeat(len(chunk)), hooks))
        done += len(chunk)
        if progress is not None:
            progress(done, len(edits))
    return Scores.join(parts).view(len(edits))


def _chunks(edits: Sequence[Edit], size: int) -> Iterator[Sequence[Edit]]:
    return (edits[start : start + size] for start in range(0, len(edits), size))


def _hooks(edits: Sequence[Edit], rows: int) -> list[Hook]:
    """One hook a name, which changes the rows of each variant by that variant's edit."""
    by_name: dict[str, list[tuple[slice, Callable[[Tensor], None]]]] = defaultdict(list)
    for place, (name, change) in enumerate(edits):
        by_name[name].append((slice(place * rows, (place + 1) * rows), change))

    def hook(changes: list[tuple[slice, Callable[[Tensor], None]]]) -> Callable[[Tensor, Any], Tensor]:
        def apply(activation: Tensor, hook: Any) -> Tensor:
            changed = activation.clone()
            for own, change in changes:
                change(changed[own])
            return changed

        return apply

    return [(name, hook(changes)) for name, changes in by_name.items()]
