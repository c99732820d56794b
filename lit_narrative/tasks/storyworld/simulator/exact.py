"""Exact chances of small worlds: every moment that plays can come to, step by step, with how likely it is."""

from collections import defaultdict
from dataclasses import dataclass

from lit_narrative.tasks.storyworld.simulator.engine import Engine, Key, Moment
from lit_narrative.tasks.storyworld.simulator.records import OUTCOMES, Outcome, shown
from lit_narrative.tasks.storyworld.simulator.statistics import MOST_PARTS
from lit_narrative.tasks.storyworld.world import World

MOST_MOMENTS = 200_000
"""Moments that are looked at, by default."""


@dataclass(frozen=True, slots=True)
class Exact:
    """The chances of a play in which each open option is equally likely.

    Attributes:
        outcomes: chance of each outcome.
        endings: chance of each ending that can be met, by the id of its encounter.
        met: positions of the encounters that a play can meet.
        opened: options with conditions, as (encounter, option) positions, that can be met open.
        shut: those that can be met closed.
        moments: number of moments looked at.
        open_chance: chance of the plays that were not followed to their end, as there were too many moments; the true
            chance of an ending lies between its own and the sum of both.
    """

    outcomes: dict[Outcome, float]
    endings: dict[str, float]
    met: frozenset[int]
    opened: frozenset[tuple[int, int]]
    shut: frozenset[tuple[int, int]]
    moments: int
    open_chance: float


def exact(game: World | Engine, max_steps: int = 200, most: int = MOST_MOMENTS) -> Exact:
    """Follow every play breadth first, plays that come to the same moment together.

    Moments are the same where encounter, state (to nine decimals), and, in worlds with selection, the encounters met
    and the turn are the same. The result is that of ever more plays of ``simulate`` with as many steps.

    Args:
        game: a world, or an engine with settings of its own.
        max_steps: bound on the steps of a play.
        most: bound on the moments looked at; it is lower for a world with very many parts.
    """
    search = _Search(game if isinstance(game, Engine) else Engine(game))
    most = min(most, MOST_PARTS // search.engine.cost)
    level = search.first()
    for _ in range(max_steps):
        if search.moments + len(level) > most:
            return search.result(sum([chance for _, chance in level.values()]))
        level = search.step(level)
        if not level:
            break
    search.outcomes["timeout"] += sum([chance for _, chance in level.values()])
    return search.result(0.0)


Level = dict[Key, tuple[Moment, float]]


class _Search:
    def __init__(self, engine: Engine) -> None:
        self.engine, self.moments = engine, 0
        self.outcomes: defaultdict[Outcome, float] = defaultdict(float)
        self.endings: defaultdict[str, float] = defaultdict(float)
        self.met: set[int] = set()
        self.opened: set[tuple[int, int]] = set()
        self.shut: set[tuple[int, int]] = set()

    def first(self) -> Level:
        """The start, or nothing where the play is over before it begins."""
        level: Level = {}
        self._come(level, self.engine.begin(), 1.0, 0)
        return level

    def step(self, level: Level) -> Level:
        """The moments one step on."""
        after: Level = {}
        self.moments += len(level)
        for moment, chance in level.values():
            self.met.add(moment.index)
            free = self._free(moment)
            for option in free:
                self._come(after, self.engine.take(moment, option)[0], chance / len(free), moment.index)
            if not free:
                self._end("stuck" if self.engine.options[moment.index] else "ending", chance, moment.index)
        return after

    def result(self, left: float) -> Exact:
        """What was found; ``left`` is the chance of what was not followed."""
        outcomes = {name: chance for name, chance in self.outcomes.items() if chance > 0}
        opened, shut = frozenset(self.opened), frozenset(self.shut)
        return Exact(outcomes, dict(self.endings), frozenset(self.met), opened, shut, self.moments, left)

    def _free(self, moment: Moment) -> list[int]:
        free = []
        for j, is_open in enumerate(self.engine.open(moment)):
            option = self.engine.world.encounters[moment.index].options[j]
            if option.gates or option.performable:
                (self.opened if is_open else self.shut).add((moment.index, j))
            if is_open:
                free.append(j)
        return free

    def _come(self, level: Level, moment: Moment, chance: float, last: int) -> None:
        if moment.index < 0:
            self._end(OUTCOMES[moment.index], chance, last)
            return
        index, state, *past = self.engine.key(moment)
        # Rounded: sums of the same numbers in another order are the same state.
        key: Key = (index, tuple(map(shown, state)), *past)  # type: ignore[assignment]
        known = level.get(key)
        level[key] = (moment, chance) if known is None else (known[0], known[1] + chance)

    def _end(self, outcome: Outcome, chance: float, last: int) -> None:
        self.outcomes[outcome] += chance
        if outcome == "ending":
            self.endings[self.engine.world.encounters[last].id] += chance
