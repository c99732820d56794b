"""Mean hidden states of texts, at the end of a model or after one of its blocks."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from lit_narrative.errors import UserError
from lit_narrative.lm.load import base_lm, blocks, max_positions
from lit_narrative.lm.tokenizer import pad_right
from lit_narrative.lm.vectors.activations import at_layer
from lit_narrative.text import unicode_text

_BATCH = 32  # texts a forward pass


def block(lm: nn.Module, layer: int) -> nn.Module:
    """A block of a causal LM by its number from 0.

    Raises:
        UserError: the model has no such block.
    """
    layers = blocks(lm)
    if not 0 <= layer < len(layers):
        raise UserError(f"the model has blocks 0 to {len(layers) - 1}, not {layer}; change model.activation.layer")
    return layers[layer]


@torch.no_grad()
def mean_states(
    lm: nn.Module, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], layer: int | None = None
) -> torch.Tensor:
    """(n, d) float32: for each text the mean over its tokens of the hidden state.

    Texts are cut to the model's positions. Padding is on the right, where no token of a causal model attends to it, and
    has weight 0 in the mean.

    Args:
        lm: in evaluation mode.
        tokenizer: its tokenizer.
        texts: n of them.
        layer: the block whose output is read; None: the input of the output layer (after the final norm).

    Raises:
        UserError: a text has no token.
    """
    rows: list[list[int]] = tokenizer([*map(unicode_text, texts)])["input_ids"]
    if empty := [index for index, row in enumerate(rows) if not row]:
        raise UserError(f"text {empty[0]} (counted from 0) of {len(texts)} is empty; remove it")
    limit = max_positions(lm)
    parts = [rows[start : start + _BATCH] for start in range(0, len(rows), _BATCH)]
    return torch.cat([_mean_batch(lm, [row[:limit] for row in part], layer) for part in parts])


def _mean_batch(lm: nn.Module, rows: Sequence[Sequence[int]], layer: int | None) -> torch.Tensor:
    base: Any = base_lm(lm)
    ids = pad_right(rows).to(base.device)
    lengths = torch.tensor([len(row) for row in rows], device=base.device)
    weights = (torch.arange(ids.shape[1], device=base.device) < lengths[:, None])[..., None]
    outputs: list[torch.Tensor] = []
    if layer is not None:
        block(lm, layer)  # refuses one that is not there
    # At one block and not by `output_hidden_states`, which keeps the states of every block.
    with at_layer(lm, layer + 1, outputs.append) if layer is not None else nullcontext():
        final = base.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
    states = outputs[0] if outputs else final
    return (states.float() * weights).sum(1) / lengths[:, None]
