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
    """Named columns of a batch.

    Attributes:
        names: of the places.
        columns: (n, P) long, -1 where a row lacks the place.
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
        columns = [self.column(name) for name in names]
        return Places(tuple(names), torch.stack(columns, 1) if columns else self.columns[:, :0])

    def common(self) -> "Places":
        """The places that every row has."""
        return self.pick([name for name in self.names if (self.column(name) >= 0).all()])


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
        spans: of each row, the characters of its places.
        width: columns of the padded batch.

    Raises:
        UserError: No token touches a span.
    """
    names = tuple(dict.fromkeys(name for named in spans for name in named))
    rows = [
        [width - len(own) + last_token(own, name, named[name]) if name in named else -1 for name in names]
        for own, named in zip(offsets, spans, strict=True)
    ]
    return Places(names, torch.tensor(rows, dtype=torch.long).view(len(spans), len(names)))


def last_token(offsets: Sequence[Span], name: str, span: Span) -> int:
    """The last token that touches a span.

    Raises:
        UserError: None does; ``name`` says of what.
    """
    touching = [place for place, (start, end) in enumerate(offsets) if start < span[1] and end > span[0]]
    if not touching:
        raise UserError(f"the place {name!r} is at the characters {span[0]} to {span[1]}, where the text has no token")
    return touching[-1]
