"""What if a gate were its opposite: by how much would the endings move?"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lit_narrative.report.intervals import Interval, paired_share_interval
from lit_narrative.tasks.storyworld.simulator.engine import Engine
from lit_narrative.tasks.storyworld.simulator.engine_plays import Policy, engine_play
from lit_narrative.tasks.storyworld.simulator.policies import uniform
from lit_narrative.tasks.storyworld.simulator.records import MAX_STEPS
from lit_narrative.tasks.storyworld.simulator.statistics import MOST_PARTS
from lit_narrative.tasks.storyworld.world import World

_RESAMPLES = 500


@dataclass(frozen=True, slots=True)
class Shift:
    """By how much one way to end moves, in share of all plays.

    Attributes:
        end: id of the ending encounter, or the outcome of a play that came to none.
        before: its share as the world is.
        change: of that share where the gate is its opposite.
        interval: 95 % of the change (adjusted Wald, of pairs of plays).
    """

    end: str
    before: float
    change: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class GateEffect:
    """What an option's gate is worth.

    Attributes:
        encounter: id of the encounter.
        option: id of the option.
        met: share of plays that come to the encounter, as the world is.
        moved: total variation between the ends before and after, 0 to 1: the share of plays that would have to end
            elsewhere for the one to become the other.
        interval: 95 % of it, by resampling pairs of plays; its lower bound is 0 where the ends do not move.
        shifts: of each way to end, the largest change first.
    """

    encounter: str
    option: str
    met: float
    moved: float
    interval: Interval
    shifts: tuple[Shift, ...]


def gate_effects(
    game: World | Engine,
    runs: int = 400,
    seed: int = 0,
    policy: Callable[[np.random.Generator], Policy] = uniform,
    max_steps: int = MAX_STEPS,
    most: int = 50,
) -> tuple[GateEffect, ...]:
    """Play the world as it is, then with each gated option flipped: open where it is closed, closed where it is open.

    Play i draws from the same generator in all of them, so that plays that do not come to the gate are the same, and
    only what the gate changes is left of chance.

    Args:
        game: a world, or an engine with settings of its own.
        runs: plays of each version, at least 1; fewer of a world with very many parts.
        seed: of the plays.
        policy: from the source of chance to what chooses.
        max_steps: bound on the steps of a play.
        most: options that are looked at: of more, those that most plays come to.

    Raises:
        ValueError: ``runs`` is below 1.
    """
    if runs < 1:
        raise ValueError(f"runs is {runs}; it must be 1 or more")
    engine = game if isinstance(game, Engine) else Engine(game)
    runs = engine.affordable(runs, max_steps, MOST_PARTS // (1 + most))
    visits: Counter[int] = Counter()
    before = [*_ends(engine, runs, seed, policy, max_steps, visits)]
    gated = [
        (i, j)
        for i, encounter in enumerate(engine.world.encounters)
        for j, option in enumerate(encounter.options)
        if visits[i] and (option.gates or option.performable)
    ]
    looked_at = sorted(sorted(gated, key=lambda at: -visits[at[0]])[:most])
    found = []
    for i, j in looked_at:
        flipped = Engine(engine.world, engine.nudge, engine.reaction_tie, [(i, j)])
        after = [*_ends(flipped, runs, seed, policy, max_steps)]
        encounter = engine.world.encounters[i]
        moved, interval = _moved(before, after)
        shifts = _shifts(before, after)
        found.append(GateEffect(encounter.id, encounter.options[j].id, visits[i] / runs, moved, interval, shifts))
    return tuple(found)


def _ends(
    engine: Engine,
    runs: int,
    seed: int,
    policy: Callable[[np.random.Generator], Policy],
    max_steps: int,
    visits: Counter[int] | None = None,
) -> Iterator[str]:
    for number in range(runs):
        play = engine_play(engine, policy(np.random.default_rng([seed, number])), max_steps)
        if visits is not None:
            visits.update({step.index for step in play.steps})
        yield play.ending if play.ending is not None else f"({play.outcome})"


def _shifts(before: list[str], after: list[str]) -> tuple[Shift, ...]:
    found, runs = [], len(before)
    for end in dict.fromkeys([*before, *after]):
        won = sum([b == end != a for a, b in zip(before, after, strict=True)])
        lost = sum([a == end != b for a, b in zip(before, after, strict=True)])
        interval = paired_share_interval(won, lost, runs)
        found.append(Shift(end, before.count(end) / runs, (won - lost) / runs, interval))
    return tuple(sorted(found, key=lambda shift: -abs(shift.change)))


def _moved(before: list[str], after: list[str]) -> tuple[float, Interval]:
    """The total variation between the ends, and its interval."""
    pairs = Counter(zip(before, after, strict=True))
    places = {end: n for n, end in enumerate(dict.fromkeys([*before, *after]))}
    counts = np.array([*pairs.values()])
    # What a pair of plays adds to the change of each end.
    changes = np.zeros((len(counts), len(places)))
    for row, (one, other) in enumerate(pairs):
        changes[row, places[one]] -= 1
        changes[row, places[other]] += 1
    runs = len(before)
    drawn = np.random.default_rng(0).multinomial(runs, counts / runs, _RESAMPLES)
    moved = _variation(counts, changes, runs)
    distances = np.array([_variation(row, changes, runs) for row in drawn])
    # Basic bootstrap: a distance is never below 0, so that those of resamples lie too high (by their mean excess).
    low, high = np.quantile(distances, (0.025, 0.975)) - (distances.mean() - moved)
    return moved, (float(min(max(low, 0.0), moved)), float(max(min(high, 1.0), moved)))


def _variation(counts: npt.NDArray[np.int64], changes: npt.NDArray[np.float64], runs: int) -> float:
    return float(np.abs(counts @ changes).sum() / (2 * runs))


def moving(effects: Iterable[GateEffect]) -> list[GateEffect]:
    """Those of which the interval of some change leaves out 0, the largest movement first."""
    sure = [one for one in effects if any(not low <= 0 <= high for low, high in (s.interval for s in one.shifts))]
    return sorted(sure, key=lambda one: -one.moved)
