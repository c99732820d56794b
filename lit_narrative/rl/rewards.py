"""The reward protocols: what scores rollouts; ``docs/rewards.md`` shows how to write one."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from lit_narrative.rl.rollout import Rollout


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
