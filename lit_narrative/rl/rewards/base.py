"""The reward protocols, and what a call of one comes to; ``docs/rewards.md`` shows how to write one."""

import traceback
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from lit_narrative.errors import UserError
from lit_narrative.views import Layout, Rollout

LARGEST = torch.finfo(torch.float32).max


@runtime_checkable
class Reward(Protocol):
    """A named score of completions.

    Called with the rollouts of one batch, it returns one number a rollout; ``None`` means that it cannot score
    that rollout, which is then left out of this reward's statistics. It never raises on generated text.
    """

    @property
    def name(self) -> str:
        """What configurations and logs call it."""

    def __call__(self, rollouts: Sequence[Rollout]) -> Sequence[float | None]:
        """Score the rollouts of one batch, in order."""


@runtime_checkable
class AsyncReward(Protocol):
    """A named score that waits for something else, such as a judge on another machine.

    It judges each completion alone; many of its calls are under way at the same time, in one event loop.
    """

    @property
    def name(self) -> str:
        """What configurations and logs call it."""

    async def score(self, rollout: Rollout) -> float | None:
        """Score one rollout; None where there is nothing to say."""


AnyReward = Reward | AsyncReward
Encoder = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""A sparse autoencoder as a function: (n, dim) states to (n, m) latents and (n, dim) reconstructions."""


@runtime_checkable
class UsesEncoder(Protocol):
    """A reward that reads states with a sparse autoencoder, which is another one in each cycle.

    The callback `SAERefresh` finds such rewards by this method, whatever their names. Until it is called, the reward
    answers None.
    """

    def update_encoder(self, encode: Encoder, layout: Layout, version: int) -> None:
        """Score by another autoencoder from now on.

        Args:
            encode: the autoencoder as a function.
            layout: how the task's states become its vectors.
            version: the cycle that trained it, for logs.
        """


class Lost(str):
    """Why a score that should be there is not."""


class TimedOut(Lost):
    """There was no answer in time."""


Answer = float | None | Lost
"""A finite score, None where the reward has nothing to say, or what went wrong."""


def ask(name: str, reward: Reward, rollouts: Sequence[Rollout]) -> list[Answer]:
    """Call a reward and read what it returns; if it raises, all of these rollouts are `Lost`.

    Raises:
        UserError: it returned another number of scores, or raised such an error itself.
    """
    try:
        scores = list(reward(rollouts))
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        return [describe(error)] * len(rollouts)
    if len(scores) != len(rollouts):
        raise UserError(
            f"reward '{name}' returned {len(scores)} scores for {len(rollouts)} completions; it must return one number "
            "or None for each, in their order"
        )
    return [read_score(score) for score in scores]


def read_score(score: Any) -> Answer:
    """A number that float32 can hold, or None; anything else is lost."""
    try:
        value = None if score is None else float(score)
    except (TypeError, ValueError, OverflowError) as error:
        return Lost(f"it returned {type(score).__name__}, no number ({error})")
    return value if value is None or abs(value) <= LARGEST else Lost(f"it returned {value}")


def describe(error: BaseException) -> Lost:
    """An exception in a line: its kind, message and place."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return Lost(f"{type(error).__name__}: {error} ({frame.filename}:{frame.lineno})")
