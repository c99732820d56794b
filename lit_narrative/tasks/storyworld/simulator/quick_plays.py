"""Quick plays: how seeded plays of a world end, and which gates they find open and which closed.

The verifiers ask this of every text that a policy writes, so these plays keep no steps; ``play.py`` keeps them. Both
draw alike: ``quick_plays(plan, seed, n)`` makes the plays of ``play.plays(plan, n, default_rng(seed))``.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from lit_narrative.tasks.storyworld.expressions import variables_read
from lit_narrative.tasks.storyworld.simulator.engine import Engine, Key, Moment
from lit_narrative.tasks.storyworld.simulator.plan import END, MOST_PARTS, Choice, Plan, affordable
from lit_narrative.tasks.storyworld.simulator.records import MAX_STEPS, OUTCOMES, Outcome

MOST_ENGINE_PARTS = 10 * MOST_PARTS
"""Bound on the parts that plays of an engine look at: worlds of authors have thousands."""
OptionPosition = tuple[int, int]
"""(position of the encounter, position of the option in it)."""


@dataclass(slots=True)
class QuickPlays:
    """What seeded plays of a world have shown.

    Attributes:
        runs: number of plays made.
        whole: whether that is the number asked for; of a world with thousands of parts fewer are made.
        outcomes: number of plays by outcome.
        endings: positions of the encounters where plays came to an ending.
        opened: options with gates that held at least once when the option was offered.
        shut: those whose gates failed at least once when the option was offered.
        endless: whether a play that was cut off after ``max_steps`` finds no ending when it goes on, which an open
            option leads to (`_Moments.ends`).
    """

    runs: int
    whole: bool
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    endings: set[int] = field(default_factory=set)
    opened: set[OptionPosition] = field(default_factory=set)
    shut: set[OptionPosition] = field(default_factory=set)
    endless: bool = False


def quick_plays(plan: Plan, seed: int, runs: int = 32, max_steps: int = MAX_STEPS) -> QuickPlays:
    """Play ``runs`` times, choosing uniformly among open options.

    Args:
        plan: the world.
        seed: the plays are a pure function of the world and this.
        runs: number of plays; fewer of a world with thousands of parts (``plan.affordable``).
        max_steps: bound on the steps of a play.
    """
    made = affordable(plan, runs, max_steps)
    result = QuickPlays(made, made == runs)
    moments = _Moments(plan, result)
    draws = iter(_uniform_draws(seed, runs * max_steps))
    cut: list[_Moment] = []
    for _ in range(made):
        moment = moments.first
        for _ in range(max_steps):
            following = moments.look(moment) if moment.following is None else moment.following
            if not following:
                outcome = moment.outcome
                break
            position = int(next(draws) * len(following))
            after = following[position]
            if after is None:
                after = following[position] = moments.follow(moment, position)
            moment = after
        else:
            # An encounter that is come to when the steps are used up is not looked at.
            outcome = moment.outcome if moment.told else "timeout"
            cut += [] if moment.told else [moment]
        result.outcomes[outcome] += 1
        if outcome == "ending":
            result.endings.add(moment.index)
    if cut:
        # What they meet is not noted: gates and endings count only where plays of the usual length find them.
        later = _Moments(plan, QuickPlays(made, whole=False))
        result.endless = not later.ends(cut, _uniform_draws(seed, runs * max_steps)[: made * max_steps])
    return result


class _Moment:
    """An encounter met with certain values of the variables that gates read; or the end of a play.

    Attributes:
        index: position of the encounter; of an end, of the last one.
        state: those values.
        outcome: of a play that stops here.
        told: whether an option said so, rather than the encounter by having no open option.
        free: positions of the open options; none at an end.
        following: for each of those the moment that follows, None until it is come to; None before a play looks.
    """

    __slots__ = ("following", "free", "index", "outcome", "state", "told")

    def __init__(self, index: int, state: tuple[float, ...], outcome: Outcome, told: bool = False) -> None:
        self.index, self.state, self.outcome, self.told = index, state, outcome, told
        self.free: list[int] = []
        self.following: list[_Moment | None] | None = [] if told else None


class _Moments:
    """The moments of a world, made when a play first comes to them: plays meet the same few again and again."""

    def __init__(self, plan: Plan, result: QuickPlays) -> None:
        self.plan, self.result = plan, result
        # No other variable decides what can be chosen.
        read = sorted({test[0] for scene in plan.scenes for choice in scene for test in choice.tests})
        self.slots = {variable: slot for slot, variable in enumerate(read)}
        self.known: dict[tuple[int, tuple[float, ...]], _Moment] = {}
        start = tuple([plan.start[variable] for variable in read])
        self.first = self._at(0, start) if plan.scenes else _Moment(0, start, "dangling", told=True)

    def look(self, moment: _Moment) -> list[_Moment | None]:
        """Which options are open; notes which gates were met open and which closed."""
        for j, choice in enumerate(self.plan.scenes[moment.index]):
            if not choice.tests:
                moment.free.append(j)
            elif self._is_open(choice, moment.state):
                self.result.opened.add((moment.index, j))
                moment.free.append(j)
            else:
                self.result.shut.add((moment.index, j))
        moment.following = [None] * len(moment.free)
        return moment.following

    def ends(self, cut: Sequence[_Moment], draws: Sequence[float]) -> bool:
        """Whether plays that were cut off at these moments come to an ending within so many steps together."""
        draw, free = iter(draws), set[tuple[int, tuple[float, ...]]]()
        for moment in cut:
            moment = self._at(moment.index, moment.state)
            passed = []
            # From a moment that an earlier one of these plays came through there is a way to an ending.
            while (moment.index, moment.state) not in free:
                following = self.look(moment) if moment.following is None else moment.following
                if not following and moment.outcome == "ending":
                    break
                if not following or (chance := next(draw, None)) is None:
                    return False
                passed.append((moment.index, moment.state))
                position = int(chance * len(following))
                moment = following[position] or self.follow(moment, position)
            free.update(passed)
        return True

    def follow(self, moment: _Moment, position: int) -> _Moment:
        """The moment behind an open option."""
        choice = self.plan.scenes[moment.index][moment.free[position]]
        if choice.target < 0:
            return _Moment(moment.index, moment.state, OUTCOMES[choice.target], told=True)
        state = list(moment.state)
        for variable, change, low, high in choice.changes:
            if (slot := self.slots.get(variable)) is not None:
                value = state[slot] + change
                state[slot] = low if value < low else high if value > high else value
        return self._at(choice.target, tuple(state))

    def _at(self, index: int, state: tuple[float, ...]) -> _Moment:
        if (known := self.known.get((index, state))) is not None:
            return known
        moment = self.known[index, state] = _Moment(index, state, "stuck" if self.plan.scenes[index] else "ending")
        return moment

    def _is_open(self, choice: Choice, state: tuple[float, ...]) -> bool:
        return all([(low <= state[self.slots[v]] <= high) is not negated for v, low, high, negated in choice.tests])


def live_gates(plan: Plan, played: QuickPlays) -> set[OptionPosition]:
    """Options whose gates make a difference: they read declared variables only, and were met both open and closed.

    Only the times count at which an option was offered: a gate that would fail elsewhere in the story hides nothing.
    """
    encounters, declared = plan.world.encounters, plan.world.variables
    live = set()
    for i, j in played.opened & played.shut:
        option = encounters[i].options[j]
        # An undeclared variable always reads 0.
        if all([name in declared for name in variables_read(*option.gates, *option.performable)]):
            live.add((i, j))
    return live


def has_gates(plan: Plan) -> bool:
    """Whether any option has a gate."""
    return any([choice.tests for scene in plan.scenes for choice in scene])


def quick_engine_plays(engine: Engine, seed: int, runs: int = 32, max_steps: int = MAX_STEPS) -> QuickPlays:
    """What `quick_plays` says of a plan, of a world that needs an engine."""
    made = engine.affordable(runs, max_steps, MOST_ENGINE_PARTS)
    result, cut = QuickPlays(made, made == runs), list[Moment]()
    draws = iter(_uniform_draws(seed, runs * max_steps))
    for _ in range(made):
        moment, last = engine.begin(), 0
        outcome: Outcome | None = None
        for _ in range(max_steps):
            if moment.index < 0:
                break
            free, last = _look(engine, moment, result), moment.index
            if not free:
                outcome = "stuck" if engine.options[last] else "ending"
                break
            moment, _ = engine.take(moment, free[int(next(draws) * len(free))])
        outcome = outcome or OUTCOMES.get(moment.index, "timeout")
        result.outcomes[outcome] += 1
        if outcome == "ending":
            result.endings.add(last)
        cut += [moment] if outcome == "timeout" else []
    # What is met later is not noted: gates and endings count only where plays of the usual length find them.
    later = iter(_uniform_draws(seed, runs * max_steps)[: made * max_steps])
    escaped: set[Key] = set()
    result.endless = not all([_ends(engine, moment, later, escaped) for moment in cut])
    return result


def _look(engine: Engine, moment: Moment, result: QuickPlays) -> list[int]:
    """The open options; notes which gates were met open and which closed."""
    free = []
    for j, is_open in enumerate(engine.open(moment)):
        option = engine.world.encounters[moment.index].options[j]
        if option.gates or option.performable:
            (result.opened if is_open else result.shut).add((moment.index, j))
        if is_open:
            free.append(j)
    return free


def _ends(engine: Engine, moment: Moment, draws: Iterator[float], escaped: set[Key]) -> bool:
    """Whether a play that was cut off comes to an ending while there are draws.

    ``escaped`` are moments from which there is a way to one, since an earlier play took it.
    """
    passed = []
    while moment.index >= 0 and (key := engine.key(moment)) not in escaped:
        choices = [j for j, is_open in enumerate(engine.open(moment)) if is_open]
        if not choices and not engine.options[moment.index]:
            break
        if not choices or (chance := next(draws, None)) is None:
            return False
        passed.append(key)
        moment, _ = engine.take(moment, choices[int(chance * len(choices))])
    escaped.update(passed)
    return moment.index >= 0 or moment.index == END


# Cached: drawing costs more than a short play, and every text of a run is played with the same seed.
@lru_cache(maxsize=8)
def _uniform_draws(seed: int, count: int) -> tuple[float, ...]:
    return tuple(np.random.default_rng(seed).random(count).tolist())
