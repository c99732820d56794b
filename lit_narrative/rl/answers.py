"""One call of a reward, and what came of it for each completion."""

import math
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lit_narrative.errors import UserError
from lit_narrative.rl.rewards import Reward
from lit_narrative.rl.rollout import Rollout

LARGEST = torch.finfo(torch.float32).max
FAULTS = (Exception, SystemExit)
"""What a reward may throw without ending the run."""


@dataclass(frozen=True, slots=True)
class Lost:
    """A score that should be there and is not.

    Attributes:
        cause: why, for the log.
    """

    cause: str


Answer = float | None | Lost
"""A finite score, None where the reward has nothing to say, or what went wrong."""


def ask(name: str, reward: Reward, rollouts: Sequence[Rollout], alone: bool) -> list[Answer]:
    """Call a reward and read what it returns.

    Args:
        name: what errors call it.
        reward: to call.
        rollouts: one or more.
        alone: whether it judges each completion alone. If it then raises, it is called again with one completion at a
            time, so that only those at fault go without a score; else all of them do.

    Raises:
        UserError: it returned something else than one score a completion, or raised such an error itself.
    """
    try:
        returned = reward(rollouts)
    except UserError:
        raise
    except FAULTS as error:
        if alone and len(rollouts) > 1:
            return [answer for rollout in rollouts for answer in ask(name, reward, [rollout], alone)]
        return [Lost(cause_of(error))] * len(rollouts)
    return read_scores(name, returned, len(rollouts))


def read_scores(name: str, returned: Any, count: int) -> list[Answer]:
    """Read what a reward returned for ``count`` completions.

    Raises:
        UserError: it is no sequence of that length.
    """
    try:
        scores = list(returned)
    except TypeError:
        raise UserError(
            f"reward '{name}' returned {type(returned).__name__}; it must return a list with one number or None for "
            f"each of the {count} completions"
        ) from None
    if len(scores) != count:
        raise UserError(
            f"reward '{name}' returned {len(scores)} scores for {count} completions; it must return one number or "
            "None for each, in their order"
        )
    return [read_score(score) for score in scores]


def read_score(score: Any) -> Answer:
    """A number that float32 can hold, or None; anything else is lost."""
    if score is None:
        return None
    try:
        value = float(score)
    except FAULTS as error:
        return Lost(f"it returned {type(score).__name__}, no number ({error})")
    if math.isnan(value):
        return Lost("it returned NaN")
    return value if abs(value) <= LARGEST else Lost(f"it returned {value}")


def cause_of(error: BaseException) -> str:
    """An exception in a line: its kind, message and place."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"
