"""Places in texts by name: a span of characters becomes the column of its last token, padded on the left."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lit_narrative.errors import UserError, did_you_mean

Span = tuple[int, int]
Encoded = tuple[list[int], list[Span]]
"""Token ids, and where in the text each came from (start, end)."""


@dataclass(frozen=True, eq=False)
class Places:
    """Named columns of a batch: those that every row has.

    Attributes:
        names: of the places.
        columns: (n, P) long.
    """

    names: tuple[str, ...]
    columns: Tensor

    def column(self, name: str) -> Tensor:
        """The column of a place in each row: (n,).

        Raises:
            UserError: There is no such place, with the names there are.
        """
        if name not in self.names:
            known = ", ".join(self.names)
            raise UserError(f"no place is named {name!r}{did_you_mean(name, self.names)}; the rows have: {known}")
        return self.columns[:, self.names.index(name)]

    def pick(self, names: Sequence[str]) -> "Places":
        """The places of these names.

        Raises:
            UserError: As `column` raises.
        """
        return Places(tuple(names), torch.stack([self.column(name) for name in names], 1))


def encode(tokenizer: PreTrainedTokenizerBase, text: str, special: bool = True) -> Encoded:
    """Token ids and the characters that each came from; a token that is not of the text has an empty span."""
    encoded: Any = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
    return list(encoded["input_ids"]), [(start, end) for start, end in encoded["offset_mapping"]]


def pad_left(rows: Sequence[Sequence[int]], value: int = 0) -> tuple[Tensor, Tensor]:
    """Stack rows of unequal length: (n, longest) long, and (n, longest) bool, False where a row is padded."""
    width = max(len(row) for row in rows)
    tokens = torch.tensor([[value] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in rows])
    return tokens, mask


def find_places(offsets: Sequence[Sequence[Span]], spans: Sequence[Mapping[str, Span]], width: int) -> Places:
    """The column of the last token that touches each span.

    Args:
        offsets: of each row, the characters of its tokens.
        spans: of each row, the characters of its places; names that some row lacks are left out.
        width: columns of the padded batch.

    Raises:
        UserError: No token touches a span.
    """
    common = [name for name in spans[0] if all(name in row for row in spans)] if spans else []
    rows = [
        [width - len(own) + _last_token(own, name, named[name]) for name in common]
        for own, named in zip(offsets, spans, strict=True)
    ]
    return Places(tuple(common), torch.tensor(rows, dtype=torch.long).view(len(spans), len(common)))


def _last_token(offsets: Sequence[Span], name: str, span: Span) -> int:
    touching = [place for place, (start, end) in enumerate(offsets) if start < span[1] and end > span[0]]
    if not touching:
        raise UserError(f"the place {name!r} is at the characters {span[0]} to {span[1]}, where the text has no token")
    return touching[-1]
