"""Quick plays: how seeded plays of a world end, and which gates they find open and which closed.

The verifiers ask this of every text that a policy writes, so these plays keep no steps; ``play.py`` keeps them. Both
draw alike: ``quick_plays(plan, seed, n)`` makes the plays of ``play.plays(plan, n, default_rng(seed))``.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from lit_narrative.tasks.storyworld.simulator.plan import Choice, Plan, affordable
from lit_narrative.tasks.storyworld.simulator.play import MAX_STEPS, OUTCOMES, Outcome

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
    declared = len(plan.names)
    # An undeclared variable has the index behind the last declared one, and always reads 0.
    return {
        (i, j) for i, j in played.opened & played.shut if all([test[0] < declared for test in plan.scenes[i][j].tests])
    }


def has_gates(plan: Plan) -> bool:
    """Whether any option has a gate."""
    return any([choice.tests for scene in plan.scenes for choice in scene])


# Cached: drawing costs more than a short play, and every text of a run is played with the same seed.
@lru_cache(maxsize=8)
def _uniform_draws(seed: int, count: int) -> tuple[float, ...]:
    return tuple(np.random.default_rng(seed).random(count).tolist())
