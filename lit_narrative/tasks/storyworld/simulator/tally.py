"""What plays add up to, play by play: memory does not grow with their number, the ends of the plays aside."""

import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lit_narrative.tasks.storyworld.simulator.engine import Engine
from lit_narrative.tasks.storyworld.simulator.records import Outcome, Play, Step

OptionPosition = tuple[int, int]
"""(position of the encounter, position of the option in it)."""
Move = tuple[int, int]
"""(position of the encounter left, of the encounter come to)."""


class Course:
    """Mean and spread of every variable before each step, over the plays that come so far (Welford's recurrence).

    Attributes:
        counts: number of plays that come to each step.
    """

    def __init__(self) -> None:
        self.counts: list[int] = []
        self._means: list[npt.NDArray[np.float64]] = []
        self._squares: list[npt.NDArray[np.float64]] = []

    def add(self, step: int, values: npt.NDArray[np.float64]) -> None:
        """Add the values (variables,) that a play has at a step; plays come to steps in order."""
        if step == len(self.counts):
            self.counts.append(0)
            self._means.append(np.zeros_like(values))
            self._squares.append(np.zeros_like(values))
        self.counts[step] += 1
        change = values - self._means[step]
        self._means[step] += change / self.counts[step]
        self._squares[step] += change * (values - self._means[step])

    @property
    def means(self) -> npt.NDArray[np.float64]:
        """(steps, variables)."""
        return np.array(self._means)

    @property
    def stds(self) -> npt.NDArray[np.float64]:
        """Population standard deviations, (steps, variables)."""
        return np.sqrt(np.array(self._squares) / np.array(self.counts)[:, None])


@dataclass(slots=True)
class Tally:
    """Counts over plays of one world.

    Attributes:
        engine: of the world.
        runs: plays counted.
        outcomes: plays by outcome.
        endings: plays that came to an ending, by its id.
        visits: plays that met each encounter, by position.
        moves: how often a play went from one encounter to another.
        seen: how often each option with conditions was offered.
        opened: how often it was open then.
        chosen: how often it was taken.
        paths: plays by their choices.
        ends: state at the end of each play.
        secrets: plays that took an option which is closed in the initial state.
        late: options offered in the last third of the steps of each play.
        late_closed: those of them that were closed.
        course: of the variables.
    """

    engine: Engine
    runs: int = 0
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    endings: Counter[str] = field(default_factory=Counter)
    visits: Counter[int] = field(default_factory=Counter)
    moves: Counter[Move] = field(default_factory=Counter)
    seen: Counter[OptionPosition] = field(default_factory=Counter)
    opened: Counter[OptionPosition] = field(default_factory=Counter)
    chosen: Counter[OptionPosition] = field(default_factory=Counter)
    paths: Counter[tuple[str, ...]] = field(default_factory=Counter)
    ends: list[npt.NDArray[np.float64]] = field(default_factory=list)
    secrets: int = 0
    late: int = 0
    late_closed: int = 0
    course: Course = field(default_factory=Course)
    _gated: dict[int, tuple[int, ...]] = field(default_factory=dict)
    _first: dict[int, tuple[bool, ...]] = field(default_factory=dict)

    def add(self, play: Play) -> None:
        """Count a play."""
        self.runs += 1
        self.outcomes[play.outcome] += 1
        if play.ending is not None:
            self.endings[play.ending] += 1
        self.visits.update({step.index for step in play.steps})
        self.moves.update(zip([s.index for s in play.steps], [s.index for s in play.steps[1:]], strict=False))
        for step in play.steps:
            self._count_options(step)
        self.paths[play.choices] += 1
        self.secrets += any(map(self._is_secret, play.steps))
        # Rounded up: a play of one or two steps has a last third too.
        for step in play.steps[-math.ceil(len(play.steps) / 3) :]:
            self.late += len(step.open)
            self.late_closed += len(step.open) - sum(step.open)
        self._follow(play)

    def gated(self, index: int) -> tuple[int, ...]:
        """Positions of the options of an encounter that have conditions."""
        if index not in self._gated:
            options = self.engine.world.encounters[index].options
            self._gated[index] = tuple([j for j, one in enumerate(options) if one.gates or one.performable])
        return self._gated[index]

    def _count_options(self, step: Step) -> None:
        for j in self.gated(step.index):
            self.seen[step.index, j] += 1
            self.opened[step.index, j] += step.open[j]
            self.chosen[step.index, j] += step.choice == j

    def _is_secret(self, step: Step) -> bool:
        # Closed in the initial state: no play can begin with it, something had to be done for it.
        if step.choice is None or step.choice not in self.gated(step.index):
            return False
        if step.index not in self._first:
            self._first[step.index] = self.engine.scene(step.index).open(self.engine.start)
        return not self._first[step.index][step.choice]

    def _follow(self, play: Play) -> None:
        last: dict[str, float] | None = None
        values = np.empty(0)
        for step in play.steps:
            # Steps that change nothing share their state.
            if step.state is not last:
                last, values = step.state, np.array([*step.state.values()])
            self.course.add(step.turn, values)
        self.ends.append(np.array([*play.state.values()]))
