"""The residual stream of a policy at its own completions: at single tokens, or as means over pieces of their texts.

A moment of a text is a list of pieces, spans of characters: what a reader has read so far, such as the encounter of a
storyworld where a play stands and the options that were chosen on the way there. Its vector is the mean over the
pieces of the mean over each piece's tokens, standardised component by component.

Notation: R completions, T tokens of one (of its last turn), d width of the model, n moments of one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol, Self, runtime_checkable

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from lit_narrative.errors import UserError
from lit_narrative.lm.load import base_lm, blocks
from lit_narrative.lm.logprobs import completion_batch
from lit_narrative.lm.vectors.activations import at_layer, check_layer
from lit_narrative.lm.vectors.inject import injecting
from lit_narrative.views import Rollout, Span

BATCH = 32
"""Completions of a forward pass: memory holds the vectors of so many, whatever is read."""
TOKENS = 16
"""Tokens of a completion that are read at most, where its task says of no moments."""
Moments = Sequence[Sequence[Span]]
"""The moments of one text: the pieces of each."""


@runtime_checkable
class Policy(Protocol):
    """What writes texts, and tells what it held when it wrote them."""

    lm: nn.Module
    tokenizer: PreTrainedTokenizerBase

    def residuals(self, rollouts: Sequence[Rollout], layer: int) -> Iterator[tuple[int, np.ndarray]]:
        """The number of each completion and what the model holds at its tokens, (T, d) float32; in any order."""


def middle_layer(lm: nn.Module) -> int:
    """The layer in the middle of a model, rounded down."""
    return len(blocks(lm)) // 2


@torch.no_grad()
def completion_residuals(
    lm: nn.Module, rollouts: Sequence[Rollout], layer: int, batch_size: int = BATCH
) -> Iterator[tuple[int, np.ndarray]]:
    """What a model holds after a layer at the tokens of completions, each read behind its prompt.

    Of several turns these are the tokens of the last, read behind all that stands before it.

    Args:
        lm: in evaluation mode, with or without adapters.
        rollouts: R of them; vectors that were injected into their prompts are injected again.
        layer: 0 (what the first block reads) to the number of blocks (the output of the last, before any norm).
        batch_size: completions of a forward pass.

    Yields:
        The number of a completion and its (T, d) float32, those of one length beside each other.

    Raises:
        UserError: there is no such layer.
    """
    check_layer(lm, layer)
    base: Any = base_lm(lm)
    order = sorted(
        range(len(rollouts)), key=lambda row: len(rollouts[row].prompt_ids) + len(rollouts[row].completion_ids)
    )
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        part = [rollouts[row] for row in rows]
        batch = completion_batch(
            [one.prompt_ids for one in part],
            [one.completion_ids for one in part],
            [one.injection for one in part],
            [one.turns for one in part],
        ).to(base.device)
        read: list[torch.Tensor] = []
        prompts = batch.targets.cumsum(1) == 0
        with injecting(base, batch.ids, batch.injections, prompts), at_layer(lm, layer, read.append):
            base.get_decoder()(input_ids=batch.ids, use_cache=False)
        for row, states, wanted in zip(rows, read[0], batch.targets, strict=True):
            yield row, states[wanted][-len(rollouts[row].last_ids) :].float().cpu().numpy()


def token_ends(tokenizer: PreTrainedTokenizerBase, rollouts: Sequence[Rollout]) -> list[np.ndarray]:
    """Where each token of each completion ends in its text: (T,) int, characters from 0; a special token has none."""
    options: Any = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    rows = [rollout.last_ids.tolist() for rollout in rollouts]
    known = sorted({token for row in rows for token in row})
    # Of no rows at all a tokenizer may make one text.
    decoded = tokenizer.batch_decode([[token] for token in known], **options) if known else []
    texts = dict(zip(known, decoded, strict=True))
    ends = []
    for rollout, row in zip(rollouts, rows, strict=True):
        parts = [texts[token] for token in row]
        if "".join(parts) != rollout.text:  # a letter of several tokens, or a space that only the first token loses
            beginnings = [row[: place + 1] for place in range(len(row))]
            parts = tokenizer.batch_decode(beginnings, **options)
            ends.append(np.maximum.accumulate([min(len(part), len(rollout.text)) for part in parts] or [0])[: len(row)])
        else:
            ends.append(np.cumsum([len(part) for part in parts], dtype=np.int64))
    return ends


def token_moments(ends: np.ndarray, most: int = TOKENS) -> list[tuple[Span]]:
    """Moments of a text of which its task says nothing: single tokens, ``most`` at most, evenly over the text.

    Args:
        ends: (T,) as `token_ends` gives them.
        most: of them.
    """
    spans = [(int(a), int(b)) for a, b in zip([0, *ends[:-1]], ends, strict=False) if a < b]
    if not spans:
        return []
    chosen = np.unique(np.linspace(0, len(spans) - 1, min(most, len(spans))).round().astype(int))
    return [(spans[int(place)],) for place in chosen]


def moment_means(
    policy: Policy, rollouts: Sequence[Rollout], moments: Sequence[Moments | None], layer: int
) -> list[np.ndarray]:
    """The vectors of the moments of texts: (n, d) float32 of each text, (0, 0) of one without.

    Args:
        policy: what wrote the texts.
        rollouts: R of them.
        moments: of each; None: the task knows none of any text, and single tokens are read.
        layer: of the model.
    """
    found = [np.zeros((0, 0), dtype=np.float32) for _ in rollouts]
    asked = [row for row, of_text in enumerate(moments) if of_text is None or len(of_text)]
    part = [rollouts[row] for row in asked]
    ends = token_ends(policy.tokenizer, part)
    for number, states in policy.residuals(part, layer):
        of_text = moments[asked[number]]
        pieces = token_moments(ends[number]) if of_text is None else of_text
        found[asked[number]] = _means(states, ends[number], pieces)
    return found


def _means(states: np.ndarray, ends: np.ndarray, moments: Moments) -> np.ndarray:
    starts = np.concatenate([[0], ends[:-1]])
    means: dict[Span, np.ndarray] = {}
    for first, last in {piece for pieces in moments for piece in pieces}:
        # Every token that holds a part of the piece; a token may reach over its edges.
        where = slice(int(np.searchsorted(ends, first, side="right")), int(np.searchsorted(starts, last)))
        means[first, last] = states[where].mean(0) if where.start < where.stop else np.zeros_like(states[0])
    rows = [np.mean([means[piece] for piece in pieces], axis=0) for pieces in moments]
    return np.stack(rows).astype(np.float32, copy=False) if rows else np.zeros((0, states.shape[1]), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class ResidualLayout:
    """How moments of texts become vectors: where the policy is read, and the statistics that standardise them.

    Attributes:
        layer: of the policy.
        mean: (d,) float32, over the moments that it was fitted on.
        std: (d,) float32, likewise, with a floor.
        policy: what wrote the texts that are read.
    """

    layer: int
    mean: np.ndarray
    std: np.ndarray
    policy: Policy = field(repr=False)

    @classmethod
    def fit(cls, layer: int, policy: Policy, raw: np.ndarray) -> Self:
        """Fit the statistics on raw vectors (n, d), n at least 1."""
        std = raw.std(0, dtype=np.float64)
        # A component that hardly varies is not blown up to the size of the others.
        floor = max(0.01 * float(std.mean()), 1e-6)
        return cls(
            layer, raw.mean(0, dtype=np.float64).astype(np.float32), np.maximum(std, floor).astype(np.float32), policy
        )

    def vectors(self, rollouts: Sequence[Rollout], moments: Sequence[Moments | None]) -> list[np.ndarray]:
        """The standardised vectors of the moments of each text, (n, d) float32; arguments as in `moment_means`."""
        return [self.standardise(raw) for raw in moment_means(self.policy, rollouts, moments, self.layer)]

    def standardise(self, raw: np.ndarray) -> np.ndarray:
        """Raw vectors (n, d), or (0, 0), as the autoencoder reads them."""
        return (raw - self.mean) / self.std if len(raw) else np.zeros((0, len(self.mean)), dtype=np.float32)

    def to_json(self) -> dict[str, Any]:
        """Plain values: the view, the layer and the statistics."""
        return {"view": "activations", "layer": self.layer, "mean": self.mean.tolist(), "std": self.std.tolist()}

    def __reduce__(self) -> NoReturn:
        # A worker process has no policy, and to send it the weights with every batch would take longer than all else.
        raise UserError(
            "a reward that reads the policy's residual stream (SAERefresh.view=activations) cannot run in a worker "
            "process: set model.scoring.workers=0"
        )
