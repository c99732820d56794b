"""Judgements as rewards."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lit_narrative.tasks.cards.answers import Judgement, judge

if TYPE_CHECKING:  # the game itself does without torch
    from lit_narrative.rl.rollout import Rollout

PARTS: dict[str, Callable[[Judgement], float]] = {
    "correct": lambda judgement: float(judgement.correct),
    "format": lambda judgement: float(judgement.valid),
    "process": lambda judgement: judgement.process,
    "length": lambda judgement: -judgement.misfit,
}
"""What can be rewarded: the right answer, any answer, the share of right running totals; and -1..0 for words too many
or too few, without which a policy in doubt learns to skip running totals and to guess."""


@dataclass(frozen=True)
class CardReward:
    """One part of the judgement as a reward.

    Args:
        name: one of `PARTS`.
    """

    name: str

    def __call__(self, rollouts: "Sequence[Rollout]") -> list[float]:
        """Score completions by the columns of their prompts."""
        part = PARTS[self.name]
        return [part(judge(rollout.text, rollout.columns)) for rollout in rollouts]
