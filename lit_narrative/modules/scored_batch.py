"""A batch of rated texts and preferences, still as texts."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

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


def all_texts(rows: Iterable[Scored]) -> list[str]:
    """All texts of rows, the other ones of preferences too."""
    return [text for row in rows for text in (row.text, row.other) if text is not None]
