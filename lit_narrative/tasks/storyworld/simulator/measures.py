"""The measures of a world as one table: what plays of it show, each with what authors aim at."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lit_narrative.report.intervals import Interval, share_interval
from lit_narrative.tasks.storyworld.simulator.statistics import Simulation


@dataclass(frozen=True, slots=True)
class Measure:
    """A figure of a world.

    Attributes:
        name: short, for tables and files.
        value: the figure.
        interval: 95 % of it, where it is a share of independent plays.
        low: least that authors aim at, ``None`` where there is no such bound.
        high: most that they aim at.
        meaning: what it is, in words.
        share: whether it is a share, 0 to 1.
    """

    name: str
    value: float
    meaning: str
    interval: Interval | None = None
    low: float | None = None
    high: float | None = None
    share: bool = True

    @property
    def met(self) -> bool | None:
        """Whether the figure lies where authors aim; ``None`` where they aim at nothing."""
        if self.low is None and self.high is None:
            return None
        return (self.low is None or self.value >= self.low) and (self.high is None or self.value <= self.high)

    @property
    def aim(self) -> str:
        """Where authors aim, in signs."""
        low, high = [None if bound is None else self.shown(bound) for bound in (self.low, self.high)]
        if low is not None and high is not None:
            return f"{low} to {high}"
        return f"≥ {low}" if low is not None else f"≤ {high}" if high is not None else ""

    def shown(self, value: float) -> str:
        """A value of the measure in its unit: a share as a percentage."""
        return f"{100 * value:.3g}%" if self.share else f"{value:.3g}"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.name,
            "value": self.value,
            "interval": None if self.interval is None else list(self.interval),
            "aim": [self.low, self.high],
            "met": self.met,
            "meaning": self.meaning,
        }


def measures(found: Simulation) -> tuple[Measure, ...]:
    """The table of a simulation.

    The aims are those that authors of generated worlds work to (``docs/worlds.md``): no ending takes most plays, none
    is out of reach, few plays come to a dead end, and some of what can be done has to be found.
    """
    return (*_ends(found), *_choices(found), *_state(found))


def _of_plays(
    name: str, share: float, found: Simulation, meaning: str, low: float | None = None, high: float | None = None
) -> Measure:
    return Measure(name, share, meaning, share_interval(share, found.runs), low, high)


def _ends(found: Simulation) -> Iterator[Measure]:
    outcomes = found.outcomes
    yield _of_plays("ended", outcomes.get("ending", 0.0), found, "plays that came to an ending")
    yield _of_plays("implicit", outcomes.get("implicit", 0.0), found, "plays after which nothing was left to follow")
    meaning = "plays that were stuck, led to nothing, or went on to the bound on steps"
    yield _of_plays("dead_end_rate", found.dead_end_rate, found, meaning, None, 0.05)
    meaning = "plays with an ending that came to the commonest"
    yield Measure("largest_ending", found.largest, meaning, None, None, 0.3)
    meaning = "plays with an ending that came to the rarest of those there are; 0 where one was never met"
    yield Measure("smallest_ending", found.smallest, meaning, None, 0.01)
    yield Measure("reachability", found.reachability, "endings that were met, of those there are", None, 1.0)
    yield Measure("ending_entropy", found.entropy, "of the endings, in bits", None, 1.2, share=False)
    meaning = "2 to the power of the entropy: so many equally frequent endings would be as various"
    yield Measure("effective_endings", found.effective_endings, meaning, None, 4.0, share=False)


def _choices(found: Simulation) -> Iterator[Measure]:
    yield Measure("coverage", found.coverage, "encounters that some play visited")
    seen = [gate for gate in found.gates if gate.seen]
    live = [gate for gate in seen if not gate.always_open and not gate.never_open]
    meaning = "options with conditions that were met both open and closed, of those that were offered"
    yield Measure("live_gates", len(live) / max(len(seen), 1), meaning)
    meaning = "plays that took an option which is closed at the start: it had to be earned"
    yield _of_plays("secret_reach", found.secret_reach, found, meaning, 0.05, 0.12)
    meaning = "options in the last third of a play that were closed"
    yield Measure("late_block", found.late_block, meaning, None, 0.1, 0.3)
    yield Measure("path_diversity", found.path_diversity, "different sequences of choices, of all plays")
    yield Measure("path_entropy", found.path_entropy, "of the sequences of choices, in bits", share=False)


def _state(found: Simulation) -> Iterator[Measure]:
    spreads = list(found.variables.values())
    moved = sum(spread.std > 0 for spread in spreads) / max(len(spreads), 1)
    yield Measure("variables_that_differ", moved, "variables that do not end all plays at one value")
    saturated = sum(spread.saturation for spread in spreads) / max(len(spreads), 1)
    yield Measure("saturation", saturated, "ends of variables that lie at a bound: what is done there is lost")
    errors = sum(issue.severity == "error" for issue in found.issues)
    yield Measure("static_errors", errors, "faults that can be seen without playing", None, None, 0.0, share=False)
    warnings = len(found.issues) - errors
    yield Measure("static_warnings", warnings, "unreachable encounters and unused variables", share=False)
