"""Changes of an arm against the policy it started from, pair by pair, and the verdict over seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lit_narrative.report.intervals import Interval, paired_share_interval
from lit_narrative.report.page import Section, render
from lit_narrative.tasks.cards.report.run import BASE, Answer, CardsRun, title

Direction = Literal["rise", "fall", "none", "mixed"]


@dataclass(frozen=True, slots=True)
class Change:
    """A difference of two shares over the same prompts, with its 95 % interval."""

    seed: str
    value: float
    interval: Interval

    @property
    def side(self) -> int:
        """1 where the whole interval lies above 0, -1 where it lies below, else 0."""
        low, high = self.interval
        return 1 if low > 0 else -1 if high < 0 else 0


@dataclass(frozen=True, slots=True)
class Comparison:
    """An arm against the base on one set.

    Attributes:
        split: the set.
        changes: of the accuracy, one a seed.
        nonzero: the same among the prompts whose right answer is not 0; empty where there are none.
        beats_majority: whether the arm's whole interval lies above the share of the commonest answer, on every seed.
    """

    split: str
    changes: tuple[Change, ...]
    nonzero: tuple[Change, ...]
    beats_majority: bool

    @property
    def direction(self) -> Direction:
        """What every seed agrees on."""
        return direction(self.changes)

    @property
    def mean(self) -> float:
        """Mean change over the seeds."""
        return sum(change.value for change in self.changes) / len(self.changes)

    @property
    def range(self) -> tuple[float, float]:
        """Smallest and largest change over the seeds."""
        values = [change.value for change in self.changes]
        return min(values), max(values)


def compare(run: CardsRun, arm: str, base: str = BASE) -> list[Comparison]:
    """Compare an arm with the base, or another policy, on every set that both were tested on."""
    comparisons = []
    for split in run.sets:
        pairs = _pairs(run, arm, base, split)
        # An arm that no seed tested beside the base on this set cannot be paired, and is left out.
        if pairs:
            every = tuple(paired(seed, before, after) for seed, before, after in pairs)
            rest = [(seed, *_not_zero(before, after)) for seed, before, after in pairs]
            nonzero = tuple(paired(seed, before, after) for seed, before, after in rest if before)
            # A policy that drifts to one constant answer can rise on a set; it does not beat the best such answer.
            beats = all(scores.interval[0] > scores.majority for _, scores in run.scores(arm, split))
            comparisons.append(Comparison(split, every, nonzero, beats))
    return comparisons


def _pairs(run: CardsRun, arm: str, base: str, split: str) -> list[tuple[str, Sequence[Answer], Sequence[Answer]]]:
    # Pairs are within a seed: another seed has other prompts, or at least another base.
    both = [seed for seed in run.seeds if {base, arm} <= seed.policies.keys()]
    answers = [(seed.name, seed.policies[base].answers, seed.policies[arm].answers) for seed in both]
    return [(seed, before[split], after[split]) for seed, before, after in answers if split in before.keys() & after]


def _not_zero(before: Sequence[Answer], after: Sequence[Answer]) -> tuple[list[Answer], list[Answer]]:
    # By the right answer and not by the given one: both policies keep the same prompts.
    kept = [pair for pair in zip(before, after, strict=True) if pair[0].expected != "0"]
    return [one for one, _ in kept], [other for _, other in kept]


def paired(seed: str, before: Sequence[Answer], after: Sequence[Answer]) -> Change:
    """Return the change in accuracy over the same prompts: answers won less answers lost, as a share of all."""
    won = sum(two.correct and not one.correct for one, two in zip(before, after, strict=True))
    lost = sum(one.correct and not two.correct for one, two in zip(before, after, strict=True))
    return Change(seed, (won - lost) / len(before), paired_share_interval(won, lost, len(before)))


def direction(changes: Sequence[Change]) -> Direction:
    """What the changes of all seeds say together: a rise or a fall only if every interval lies on that side of 0."""
    sides = {change.side for change in changes}
    # Nothing is averaged over seeds here: one seed that falls is enough to claim no rise.
    if len(sides) > 1 or not sides:
        return "mixed"
    return {1: "rise", -1: "fall", 0: "none"}[sides.pop()]  # type: ignore[return-value]


def verdict(comparison: Comparison) -> str:
    """State the result of a comparison in words, claiming no more than every seed shows."""
    many = len(comparison.changes) > 1
    match comparison.direction:
        case "rise":
            return "rose" + (" on every seed" if many else "") + _reservation(comparison)
        case "fall":
            return "fell" + (" on every seed" if many else "")
        case "none":
            return "no change beyond chance" + (" on any seed" if many else "")
        case "mixed":
            sides = [_side(comparison.changes, side) for side in (1, -1, 0) if _at(comparison.changes, side)]
            return f"mixed ({'; '.join(sides)})"


def _reservation(comparison: Comparison) -> str:
    """What a rise does not show."""
    reservations = []
    if comparison.nonzero and direction(comparison.nonzero) != "rise":
        reservations.append("not shown where the right answer is other than 0")
    if not comparison.beats_majority:
        many = " on every seed" if len(comparison.changes) > 1 else ""
        reservations.append(f"not shown to beat one constant answer{many}")
    return ", but " + " and ".join(reservations) if reservations else ""


def _side(changes: Sequence[Change], side: int) -> str:
    words = {1: "rose", -1: "fell", 0: "no change beyond chance"}
    return f"{words[side]} on {', '.join(_at(changes, side))}"


def _at(changes: Sequence[Change], side: int) -> list[str]:
    return [change.seed for change in changes if change.side == side]


# --- reinforcement against imitation ----------------------------------------------------------------------------------

LEARNER, IMITATOR = "GRPOModule", "SFTModule"
"""Modules that train the arms of reinforcement and those of imitation."""


def compare_with_baselines(run: CardsRun) -> dict[tuple[str, str], list[Comparison]]:
    """Compare every arm of reinforcement with every arm of imitation, its baselines, by (arm, baseline)."""
    # By what trained them, for the names of arms are the recipe's to choose.
    kinds = {arm: {policy.training.module for _, policy in run.of(arm) if policy.training} for arm in run.arms}
    learners, imitators = ([arm for arm in run.arms if kind in kinds[arm]] for kind in (LEARNER, IMITATOR))
    pairs = [(arm, baseline) for baseline in imitators for arm in learners]
    return {pair: comparisons for pair in pairs if (comparisons := compare(run, *pair))}


def baselines(run: CardsRun) -> Section:
    """Set the arms of reinforcement beside those of imitation, on the same prompts."""
    rows = [
        (*pair, [(title(one.split), one) for one in comparisons])
        for pair, comparisons in compare_with_baselines(run).items()
    ]
    body = render(__name__, "baselines.html", rows=rows, several=len(run.seeds) > 1)
    return Section("baselines", "Reinforcement against as much more imitation", body)
