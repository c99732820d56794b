"""Final hidden states of examples that stand side by side in rows, so that little is computed on padding.

Notation: B examples, L longest one, R rows of W columns, N completion tokens, d width.

Position ids begin at 0 with each example, and from that transformers makes the mask: no token sees another example, nor
the padding. So the states are those of examples that are read one a row, but for rounding.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel

from lit_narrative.lm.fast.self_check import LENGTH, NEW_TOKENS, PROMPTS, allclose, cached_check


class Places(NamedTuple):
    """Where examples stand.

    Attributes:
        rows: of each example.
        starts: the column of its first token.
        used: tokens of each row.
    """

    rows: list[int]
    starts: list[int]
    used: list[int]


def share_rows(lengths: Sequence[int], width: int) -> Places:
    """As few rows as hold the examples, filled about evenly: the longest example goes first, into the emptiest row.

    Args:
        lengths: of the examples, in tokens, 1 or more each.
        width: tokens of a row at most, unless an example is longer.
    """
    width = max(width, *lengths)
    order = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    count = math.ceil(sum(lengths) / width)
    while True:
        places = Places([0] * len(lengths), [0] * len(lengths), [0] * count)
        for number in order:
            row = min(range(count), key=places.used.__getitem__)
            places.rows[number], places.starts[number] = row, places.used[row]
            places.used[row] += lengths[number]
        if max(places.used) <= width:  # at the latest with an example a row
            return places
        count += 1


def packed_states(base: nn.Module, ids: torch.Tensor, targets: torch.Tensor, width: int) -> torch.Tensor:
    """Hidden states (N, d) that predict the completion tokens, example by example in order.

    Args:
        base: a transformers causal LM for which `supports_packing` holds.
        ids: (B, L) int64, right-padded.
        targets: (B, L) bool, true on the tokens to predict; never in the first column.
        width: tokens of a row at most, unless an example is longer.
    """
    columns = torch.arange(ids.shape[1], device=ids.device)
    # The last token predicts nothing. An example without targets has a token all the same.
    lengths = (targets * columns).amax(1).clamp(min=1)
    rows, starts, used = (torch.tensor(part, device=ids.device) for part in share_rows(lengths.tolist(), width))
    size = (len(used), int(used.max()))
    inside = columns < lengths[:, None]
    place = rows[:, None] * size[1] + starts[:, None] + columns  # (B, L), in the flattened rows
    packed = ids.new_zeros(size).flatten().scatter(0, place[inside], ids[inside])
    # Behind the last example of a row padding counts from 0 on: an example of its own, which nothing sees.
    padding = (torch.arange(size[1], device=ids.device) - used[:, None]).flatten()
    positions = padding.scatter(0, place[inside], columns.expand_as(ids)[inside])
    hidden = base.get_decoder()(  # type: ignore[operator]
        input_ids=packed.view(size), position_ids=positions.view(size), use_cache=False
    ).last_hidden_state
    return hidden.flatten(0, 1)[place[targets] - 1]  # type: ignore[no-any-return]


@cached_check
def supports_packing(base: PreTrainedModel) -> bool:
    """Whether ``base`` computes for examples side by side what it computes for each by itself."""
    ids = torch.zeros(len(PROMPTS), LENGTH, dtype=torch.long, device=base.device)
    targets = torch.zeros_like(ids, dtype=torch.bool)
    for row, prompt in enumerate(PROMPTS):
        ids[row, : len(prompt)] = torch.tensor(prompt)
        ids[row, len(prompt) : len(prompt) + NEW_TOKENS] = row + torch.arange(NEW_TOKENS)
        targets[row, len(prompt) : len(prompt) + NEW_TOKENS] = True
    hidden = base.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
    expected = hidden[:, :-1][targets[:, 1:]]
    return allclose(packed_states(base, ids, targets, 2 * LENGTH), expected, expected.std(), base.dtype)
