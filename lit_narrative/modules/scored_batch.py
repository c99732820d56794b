"""A batch of rated texts and preferences, still as texts."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lit_narrative.errors import UserError
from lit_narrative.views import Scored


class ScoredBatch(NamedTuple):
    """Rows to learn from.

    Attributes:
        texts: n texts; of a preference the preferred one.
        others: p texts, the other one of each preference, in order.
        paired: (n,) bool, which rows are preferences.
        scores: (n,) ratings; not read where ``paired``.
    """

    texts: list[str]
    others: list[str]
    paired: Tensor
    scores: Tensor

    @classmethod
    def of(cls, rows: Sequence[Scored]) -> "ScoredBatch":
        """The batch of some rows, in order."""
        return cls(
            [row.text for row in rows],
            [row.other for row in rows if row.other is not None],
            torch.tensor([row.other is not None for row in rows]),
            torch.tensor([row.score for row in rows], dtype=torch.float32),
        )


def check_rows(rows: Sequence[Scored]) -> None:
    """See that there is something to learn from, or to measure by.

    Raises:
        UserError: there are no rows, or a rating is no number.
    """
    if not len(rows):
        raise UserError("the view 'scored' has no rows; check the sizes and paths under `data`")
    for number, row in enumerate(rows):
        if row.other is None and not math.isfinite(row.score):
            raise UserError(f"row {number} of the view 'scored' is rated {row.score}: a rating must be a number")


def all_texts(rows: Iterable[Scored]) -> list[str]:
    """All texts of rows, the other ones of preferences too."""
    return [text for row in rows for text in (row.text, row.other) if text is not None]
