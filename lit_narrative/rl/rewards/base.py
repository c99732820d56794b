"""The reward protocols, and the outcome of a call; ``docs/rewards.md`` shows how to write a reward."""

import logging
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from lit_narrative.errors import UserError
from lit_narrative.redaction import redact_text
from lit_narrative.views import Encode, Layout, Rollout

logger = logging.getLogger(__name__)
# Rewards are kept in float32, where a larger score would be infinite.
LARGEST = torch.finfo(torch.float32).max
REASON_LENGTH = 300
"""Characters of the reason why a score was lost: an exception's text may hold a whole completion or a server's page."""


class Lost(str):
    """The reason why a score that should be there is not: one line of `REASON_LENGTH` characters, without keys."""

    def __new__(cls, reason: str) -> "Lost":
        """Make it of a text of any length."""
        # Cut twice: nobody waits for 100 MB to be searched, and what is hidden is hidden before a cut could divide it.
        hidden = redact_text(reason[: 100 * REASON_LENGTH])
        # For a terminal: what a model or a server wrote may hold its control sequences.
        line = " ".join("".join(char if char.isprintable() else " " for char in hidden).split())
        return super().__new__(cls, line if len(line) <= REASON_LENGTH else f"{line[: REASON_LENGTH - 1]}…")


class TimedOut(Lost):
    """The reason that there was no answer in time."""


Answer = float | None | Lost
"""A finite score, None where the reward cannot tell, or the reason why the score was lost."""


@runtime_checkable
class Reward(Protocol):
    """A named score of completions.

    Called with the rollouts of one batch, it returns one number a rollout; ``None`` means that it cannot score
    that rollout, which is then left out of this reward's statistics, and `Lost` why it should have and did not, which
    is counted and logged. It never raises on generated text.
    """

    @property
    def name(self) -> str:
        """Its name in configurations and logs."""

    def __call__(self, rollouts: Sequence[Rollout]) -> Sequence[Answer]:
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


@runtime_checkable
class UsesViews(UsesEncoder, Protocol):
    """A reward whose autoencoder may read something else than game states.

    Attributes:
        encoder_views: ``states``, and ``activations``: then the layout of `update_encoder` is a `TextLayout`, which
            reads the policy's residual stream at its completions. Without the attribute it is ``states`` alone.
    """

    encoder_views: frozenset[str]


Reconstruct = Callable[[Sequence[str]], torch.Tensor]
"""A critic as a function: n texts to the vectors that they describe, (n, a) float32 on the CPU."""


@runtime_checkable
class UsesCritic(Protocol):
    """Whatever reads texts by a critic that is trained along with the policy: a reward, or a task that measures by it.

    The callback `CriticTraining` finds it by this method.
    """

    def update_critic(self, reconstruct: Reconstruct, version: int) -> None:
        """Read by another critic from now on.

        Args:
            reconstruct: the critic as a function.
            version: how many rollout batches it has learned from, for logs and random streams.
        """


def ask(name: str, reward: Reward, rollouts: Sequence[Rollout]) -> list[Answer]:
    """Call a reward and read what it returns; if it raises, all of these rollouts are `Lost`.

    Raises:
        UserError: it returned another number of scores, or what has no order; or it raised such an error itself.
    """
    needed = "one number or None for each completion, in a list in their order"
    try:
        returned: Any = reward(rollouts)
        # What can be iterated over and is no list of scores: the keys of a dict would be read, a text's characters, or
        # the names of a DataFrame's columns.
        if isinstance(returned, Mapping | Set | str | bytes | bytearray) or hasattr(returned, "columns"):
            raise UserError(f"reward '{name}' returned a {type(returned).__name__}; it must return {needed}")
        if isinstance(returned, Awaitable):
            raise UserError(f"reward '{name}' is called asynchronously; it needs `async def score(self, rollout)`")
        # `list` within the `try`: a generator raises only while it is read.
        scores = list(returned)
    except UserError:  # the reward is set up wrong: the run cannot go well
        raise
    # SystemExit too: code that a reward imports may call sys.exit, which would end the training.
    except (Exception, SystemExit) as error:
        return [describe(error)] * len(rollouts)
    if len(scores) != len(rollouts):
        raise UserError(
            f"reward '{name}' returned {len(scores)} scores for {len(rollouts)} completions; it must return {needed}"
        )
    return [read_score(score) for score in scores]


def ask_once(name: str, reward: Reward, rollouts: Sequence[Rollout]) -> list[float | None]:
    """Call a reward outside of training; None where it has no score, with a line in the log on what was lost.

    Raises:
        UserError: as `ask`.
    """
    answers = ask(name, reward, rollouts)
    log_lost(reward.name, answers)
    return known_scores(answers)


def known_scores(answers: Sequence[Answer]) -> list[float | None]:
    """The scores among answers; None for those that were lost."""
    return [answer if isinstance(answer, float) else None for answer in answers]


def log_lost(label: str, answers: Sequence[Answer]) -> list[Lost]:
    """Log how many scores were lost, and why the first was; returns the reasons."""
    lost = [answer for answer in answers if isinstance(answer, Lost)]
    if lost:
        message = "reward '%s': %d of %d completions have no score; first cause: %s"
        logger.warning(message, redact_text(label), len(lost), len(answers), lost[0])
    return lost


def read_score(score: Any) -> Answer:
    """A number that float32 can hold, or None; anything else is lost.

    Numbers of numpy and torch are numbers, an array or a tensor of one number of any shape is that number, and so is a
    text that holds a number.
    """
    if isinstance(score, Lost):
        return score
    try:
        if score is np.ma.masked:  # 0 as an item
            return Lost("it returned a masked number")
        if isinstance(score, torch.Tensor | np.ndarray):
            score = score.item()
        value = None if score is None else float(score)
    except (Exception, SystemExit) as error:  # a tensor of two numbers, say, is a RuntimeError
        return Lost(f"it returned {type(score).__name__}, which is not a number ({error})")
    # float32: a larger number would be infinite in the table of scores, and then in every advantage of its group.
    return value if value is None or abs(value) <= LARGEST else Lost(f"it returned {value}")


def describe(error: BaseException) -> Lost:
    """An exception in one line: its kind, message and the line of code."""
    # The innermost frame, where it was raised.
    frame = traceback.extract_tb(error.__traceback__)[-1]
    # By the traceback module: a message that raises itself would end the run.
    message = "".join(traceback.format_exception_only(error)).strip()
    place = f" ({frame.filename}:{frame.lineno})"
    return Lost(Lost(message)[: REASON_LENGTH - len(place)] + place)
