"""What a reward may return, by the words of docs/rewards.md; importable by worker processes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import pandas as pd
import torch

from lit_narrative.errors import UserError
from lit_narrative.rl.rewards.base import Lost
from lit_narrative.views import Rollout

FIRST, OTHER = 0.5, 0.25


def broken(_: object) -> NoReturn:
    raise ConnectionError("the judge is away")


def wrongly_set_up(_: object) -> NoReturn:
    raise UserError("no key")


async def waiting(scores: list[float]) -> list[float]:
    return scores


def in_place(make: Callable[[], Any]) -> Callable[[list[float]], list[Any]]:
    """Something else in place of each score of `FIRST`."""
    return lambda scores: [make() if score == FIRST else score for score in scores]


RETURNS: dict[str, Callable[[list[float]], Any]] = {
    "a list or a tuple of `float`": tuple,
    "a list of `int` or `bool`": lambda scores: [score == FIRST for score in scores],
    "a list of `np.float32`, `np.float64`": lambda scores: [np.float32(score) for score in scores],
    "a list of `np.bool_`": lambda scores: [np.bool_(score == FIRST) for score in scores],
    "a list of texts that are numbers": lambda scores: [str(score) for score in scores],
    "a list of tensors of one number": lambda scores: [torch.tensor([score]) for score in scores],
    "an array (n,)": np.array,
    "an array (n, 1)": lambda scores: np.array(scores)[:, None],
    "a tensor (n,)": torch.tensor,
    "a tensor (n, 1)": lambda scores: torch.tensor(scores)[:, None],
    "a tensor with a gradient, or bfloat16": lambda scores: torch.tensor(scores, dtype=torch.bfloat16).requires_grad_(),
    "a generator": lambda scores: (score for score in scores),
    "`None` in the list": in_place(lambda: None),
    "NaN in the list": in_place(lambda: float("nan")),
    "a masked number in an array": lambda scores: np.ma.masked_equal(np.array(scores), FIRST),
    "infinity in the list": in_place(lambda: float("inf")),
    "a text that is not a number in the list": in_place(lambda: "good"),
    "a list or a dict in the list": in_place(lambda: {"score": 0.5}),
    '`Lost("why")` in the list': in_place(lambda: Lost("why")),
    "a tensor (n, 2)": lambda scores: torch.tensor(scores)[:, None].expand(-1, 2),
    "one number, or nothing": lambda scores: None,
    "it raises": broken,
    "it raises `UserError`": wrongly_set_up,
    "another number of scores": lambda scores: scores[:-1],
    "a dict": lambda scores: dict(enumerate(scores)),
    "a set": set,
    "a DataFrame": lambda scores: pd.DataFrame({number: [score] for number, score in enumerate(scores)}),
    "a text": lambda scores: "7" * len(scores),
    "a coroutine (`async def __call__`)": waiting,
}
"""From scores, of which some are `FIRST`, to what a reward returns in their place."""


@dataclass(frozen=True)
class Returned:
    """A reward in one of the forms above: `FIRST` for the first and the last of four rollouts, `OTHER` between."""

    form: str
    name: str

    def __call__(self, rollouts: Sequence[Rollout]) -> Any:
        return RETURNS[self.form]([FIRST if number % 4 in (0, 3) else OTHER for number in range(len(rollouts))])


REWARDS = tuple(Returned(form, f"r{number}") for number, form in enumerate(RETURNS))
