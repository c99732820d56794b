"""Patching: a vector put in place of what a model holds after a block at a token, and what it predicts then.

Layers count as transformers counts hidden states: 0 is what the first block reads, l the raw output of block l, counted
from 1, before any final norm.

Notation: n rows, V vocabulary, a width of the model.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from lit_narrative.errors import UserError
from lit_narrative.lm.load import base_lm, blocks
from lit_narrative.lm.tokenizer import pad_right
from lit_narrative.lm.vectors.activations import at_layer

_BATCH = 32  # rows a forward pass


@contextmanager
def patching(lm: nn.Module, layer: int, rows: Tensor, columns: Tensor, vectors: Tensor) -> Iterator[None]:
    """Within the context ``lm`` holds given vectors at given places after a layer, in passes that read whole rows.

    Args:
        lm: a transformers causal LM, with or without adapters.
        layer: 0 to the number of blocks.
        rows: (n,) of the batch.
        columns: (n,).
        vectors: (n, a).

    Raises:
        UserError: there is no such layer, or the vectors have another width than the model.
    """
    layers, hidden = blocks(lm), base_lm(lm).config.get_text_config().hidden_size
    if not 0 <= layer <= len(layers):
        raise UserError(f"layer {layer} cannot be patched: the model has the layers 0 to {len(layers)}; choose another")
    if vectors.shape[-1] != hidden:
        raise UserError(f"the vectors to patch in are {vectors.shape[-1]} wide, and the model is {hidden} wide")

    with at_layer(lm, layer, lambda states: states.index_put((rows, columns), vectors.to(states))):
        yield


@torch.no_grad()
def patched_logits(
    lm: nn.Module,
    rows: Sequence[Sequence[int]],
    layer: int = 0,
    vectors: Tensor | None = None,
    positions: Sequence[int] | None = None,
) -> Tensor:
    """(n, V) float32 on the CPU: logits of the token behind each row, with a vector patched into the row.

    Args:
        lm: in evaluation mode.
        rows: n rows of token ids, none empty.
        layer: where.
        vectors: (n, a), what is put there; None: the model reads the rows as they are.
        positions: the token of each row that is patched, from 0; default: the last.

    Raises:
        UserError: as `patching`; or a row is empty, or shorter than its position asks for.
    """
    base: Any = base_lm(lm)
    places = [len(row) - 1 for row in rows] if positions is None else list(positions)
    wrong = (number for number, row in enumerate(rows) if not 0 <= places[number] < len(row))
    if (number := next(wrong, None)) is not None:
        raise UserError(
            f"row {number} (counted from 0) has {len(rows[number])} tokens and no token {places[number]} to patch"
        )
    parts = [torch.zeros(0, base.config.get_text_config().vocab_size)]
    for start in range(0, len(rows), _BATCH):
        part = slice(start, start + _BATCH)
        ids = pad_right(rows[part]).to(base.device)  # no token of a causal model attends to padding on its right
        lines = torch.arange(len(ids), device=base.device)
        ends = torch.tensor([len(row) - 1 for row in rows[part]], device=base.device)
        if vectors is None:
            logits = base(input_ids=ids, use_cache=False).logits
        else:
            columns = torch.tensor(places[part], device=base.device)
            with patching(lm, layer, lines, columns, vectors[part].to(base.device)):
                logits = base(input_ids=ids, use_cache=False).logits
        parts.append(logits[lines, ends].float().cpu())
    return torch.cat(parts)


def at_norm(vectors: Tensor, originals: Tensor) -> Tensor:
    """Vectors (n, a) at the norms of others (n, a); to be taken where only directions are known. Zeros stay zeros."""
    return nn.functional.normalize(vectors, dim=-1) * originals.norm(dim=-1, keepdim=True)


def first_token(tokenizer: PreTrainedTokenizerBase, word: str) -> int | None:
    """The id of the token that a word begins with inside a text; None where the tokenizer does not know it."""
    ids: list[int] = tokenizer.encode(f" {word}", add_special_tokens=False)
    # A tokenizer may write the space as a token of its own.
    shown = [token for token in ids if str(tokenizer.decode([token])).strip()]
    return shown[0] if shown and shown[0] != tokenizer.unk_token_id else None
