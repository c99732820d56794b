"""The reward protocols, and the outcome of a call; ``docs/rewards.md`` shows how to write a reward."""

import traceback
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch

from lit_narrative.errors import UserError
from lit_narrative.views import Encode, Layout, Rollout

# Rewards are kept in float32, where a larger score would be infinite.
LARGEST = torch.finfo(torch.float32).max


@runtime_checkable
class Reward(Protocol):
    """A named score of completions.

    Called with the rollouts of one batch, it returns one number a rollout; ``None`` means that it cannot score
    that rollout, which is then left out of this reward's statistics. It never raises on generated text.
    """

    @property
    def name(self) -> str:
        """Its name in configurations and logs."""

    def __call__(self, rollouts: Sequence[Rollout]) -> Sequence[float | None]:
        """Score the rollouts of one batch, in order."""


@runtime_checkable
class AsyncReward(Protocol):
    """A named score that waits for something else, such as a judge on another machine.

    It scores each completion alone; many of its calls run at the same time, in one event loop.
    """

    @property
    def name(self) -> str:
        """Its name in configurations and logs."""

    async def score(self, rollout: Rollout) -> float | None:
        """Score one rollout; None where it cannot tell."""


AnyReward = Reward | AsyncReward


@runtime_checkable
class UsesEncoder(Protocol):
    """A reward that reads states with a sparse autoencoder, which is another one in each cycle.

    The callback `SAERefresh` finds such rewards by this method, whatever their names. Until it is called, the reward
    answers None.
    """

    def update_encoder(self, encode: Encode, layout: Layout, version: int) -> None:
        """Score by another autoencoder from now on.

        Args:
            encode: the autoencoder as a function.
            layout: how the task's states become its vectors.
            version: the cycle that trained it, for logs.
        """


class Lost(str):
    """The reason why a score that should be there is not."""


class TimedOut(Lost):
    """The reason that there was no answer in time."""


Answer = float | None | Lost
"""A finite score, None where the reward cannot tell, or the reason why the score was lost."""


def ask(name: str, reward: Reward, rollouts: Sequence[Rollout]) -> list[Answer]:
    """Call a reward and read what it returns; if it raises, all of these rollouts are `Lost`.

    Raises:
        UserError: it returned another number of scores, or raised such an error itself.
    """
    try:
        # `list` within the `try`: a generator raises only while it is read.
        scores = list(reward(rollouts))
    except UserError:  # the reward is set up wrong: the run cannot go well
        raise
    # SystemExit too: code that a reward imports may call sys.exit, which would end the training.
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
        return Lost(f"it returned {type(score).__name__}, which is not a number ({error})")
    # float32: a larger number would be infinite in the table of scores, and then in every advantage of its group.
    return value if value is None or abs(value) <= LARGEST else Lost(f"it returned {value}")


def describe(error: BaseException) -> Lost:
    """An exception in one line: its kind, message and the line of code."""
    # The innermost frame, where it was raised.
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return Lost(f"{type(error).__name__}: {error} ({frame.filename}:{frame.lineno})")
