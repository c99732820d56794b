"""Statistics of many seeded plays of a world: its endings, dead ends, gates and variables."""

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice

import numpy as np

from lit_narrative.report.intervals import share_interval
from lit_narrative.tasks.storyworld.checks import faults
from lit_narrative.tasks.storyworld.issues import MOST_ISSUES, Issue, json_path
from lit_narrative.tasks.storyworld.simulator.engine import Engine
from lit_narrative.tasks.storyworld.simulator.engine_plays import Policy, engine_play
from lit_narrative.tasks.storyworld.simulator.graph import can_end, lint_warnings, outline
from lit_narrative.tasks.storyworld.simulator.plan import Plan
from lit_narrative.tasks.storyworld.simulator.policies import uniform
from lit_narrative.tasks.storyworld.simulator.records import MAX_STEPS, Outcome, Play
from lit_narrative.tasks.storyworld.simulator.tally import Tally
from lit_narrative.tasks.storyworld.world import World

DEAD_ENDS: tuple[Outcome, ...] = ("stuck", "dangling", "timeout")
"""Outcomes of a play that the story did not mean."""
MOST_PARTS = 2_000_000_000
"""Bound on the parts that the plays look at together, some minutes: a person who asks for plays gets them."""


@dataclass(frozen=True, slots=True)
class EndingRate:
    """How often plays came to an ending.

    Attributes:
        encounter: id of the encounter.
        share: of all plays, 0 to 1.
        low: lower end of the 95 % Wilson interval of the share.
        high: its upper end; for an ending never met, the largest share that this many plays may have missed.
    """

    encounter: str
    share: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class GateRate:
    """How an option with gates fared.

    Attributes:
        encounter: id of the encounter.
        option: id of the option.
        index: position of the encounter.
        position: position of the option in it.
        seen: number of times it was offered.
        open: number of those at which its gates held.
        chosen: number of those at which it was taken.
    """

    encounter: str
    option: str
    index: int
    position: int
    seen: int
    open: int
    chosen: int

    @property
    def always_open(self) -> bool:
        """Whether the gates held every time."""
        return 0 < self.seen == self.open

    @property
    def never_open(self) -> bool:
        """Whether the gates never held although the option was offered."""
        return self.seen > 0 == self.open


@dataclass(frozen=True, slots=True)
class VariableSpread:
    """A variable over the ends of the plays: mean, population standard deviation, share of ends at a bound."""

    mean: float
    std: float
    saturation: float


@dataclass(frozen=True, slots=True)
class Simulation:
    """What N plays say about a world. Shares are of all plays, 0 to 1.

    Attributes:
        runs: N, the number of plays made.
        outcomes: share of each outcome.
        dead_end_rate: share of plays that came to a dead end (stuck, dangling or timeout).
        endings: every encounter at which a play may end well, met or not, in the order of the file.
        entropy: of the endings among the plays that came to one, in bits.
        effective_endings: 2 to the power of the entropy; 0 where no play came to an ending.
        largest: share of the plays that came to an ending which came to the commonest of the declared ones.
        smallest: likewise of the rarest, 0 where one was never met.
        reachability: share of the declared endings that were met (0 where none is declared).
        coverage: share of the declared encounters that were visited.
        gates: every option with gates, in the order of the file.
        secret_reach: share of plays that took an option that was closed in the initial state.
        late_block: share of the options in the last third of each play's steps that a gate closed.
        path_diversity: distinct sequences of choices / N.
        path_entropy: entropy of the sequences of choices, in bits.
        variables: the state at the ends.
        issues: static faults and lint warnings, ``MOST_ISSUES`` of each, with positions in ``world.to_json()``.
    """

    runs: int
    outcomes: dict[Outcome, float]
    dead_end_rate: float
    endings: tuple[EndingRate, ...]
    entropy: float
    effective_endings: float
    largest: float
    smallest: float
    reachability: float
    coverage: float
    gates: tuple[GateRate, ...]
    secret_reach: float
    late_block: float
    path_diversity: float
    path_entropy: float
    variables: dict[str, VariableSpread]
    issues: tuple[Issue, ...]


def simulate(
    world: World | Engine,
    runs: int,
    seed: int,
    policy: Callable[[np.random.Generator], Policy] = uniform,
    max_steps: int = MAX_STEPS,
    most: int = MOST_PARTS,
    keep: Callable[[Play], None] | None = None,
) -> Simulation:
    """Play ``world`` many times and count.

    Args:
        world: any world that the readers return, or an engine with settings of its own.
        runs: number of plays, at least 1; fewer are made of a world with very many parts (``Engine.affordable``).
        seed: the result is a pure function of the other arguments and this.
        policy: from the source of chance to what chooses.
        max_steps: bound on the steps of each play.
        most: bound on the parts that all plays look at.
        keep: is given each play.

    Raises:
        ValueError: ``runs`` is below 1.
    """
    return summarise(tally(world, runs, seed, policy, max_steps, most, keep))


def tally(
    world: World | Engine,
    runs: int,
    seed: int,
    policy: Callable[[np.random.Generator], Policy] = uniform,
    max_steps: int = MAX_STEPS,
    most: int = MOST_PARTS,
    keep: Callable[[Play], None] | None = None,
) -> Tally:
    """The counts of many plays; arguments and errors of `simulate`."""
    if runs < 1:
        raise ValueError(f"runs is {runs}; it must be 1 or more")
    engine = world if isinstance(world, Engine) else Engine(world)
    found, choose = Tally(engine), policy(np.random.default_rng(seed))
    for _ in range(engine.affordable(runs, max_steps, most)):
        play = engine_play(engine, choose, max_steps)
        found.add(play)
        if keep is not None:
            keep(play)
    return found


def summarise(found: Tally) -> Simulation:
    """What counts say about a world."""
    runs, world, plan = found.runs, found.engine.world, outline(found.engine)
    outcomes = {name: count / runs for name, count in found.outcomes.items()}
    endings = _ending_rates(plan, found.endings, runs)
    entropy, ended = _entropy(found.endings.values()), found.endings.total()
    shares = [rate.share * runs / ended for rate in endings] if ended else []
    # By id, as are the declared ones: of encounters with one id only the first can be visited.
    declared = {encounter.id for encounter in world.encounters}
    return Simulation(
        runs=runs,
        outcomes=outcomes,
        dead_end_rate=sum(outcomes.get(name, 0.0) for name in DEAD_ENDS),
        endings=endings,
        entropy=entropy,
        effective_endings=2**entropy if ended else 0.0,
        largest=max(shares, default=0.0),
        smallest=min(shares, default=0.0),
        reachability=sum(rate.share > 0 for rate in endings) / max(len(endings), 1),
        coverage=len(found.visits) / max(len(declared), 1),
        gates=_gate_rates(found),
        secret_reach=found.secrets / runs,
        late_block=found.late_closed / max(found.late, 1),
        path_diversity=len(found.paths) / runs,
        path_entropy=_entropy(found.paths.values()),
        variables=_spreads(world, found),
        issues=_static_issues(plan),
    )


def _ending_rates(plan: Plan, ended: Counter[str], runs: int) -> tuple[EndingRate, ...]:
    first: dict[str, int] = {}  # of two encounters with one id, plays meet only the first
    for i, encounter in enumerate(plan.world.encounters):
        first.setdefault(encounter.id, i)
    shares = {name: ended[name] / runs for name, i in first.items() if can_end(plan, i)}
    # Once a share: an interval takes a tenth of a millisecond, and a world may have thousands of endings never met.
    intervals = {share: share_interval(share, runs) for share in set(shares.values())}
    return tuple(EndingRate(name, share, *intervals[share]) for name, share in shares.items())


def _gate_rates(found: Tally) -> tuple[GateRate, ...]:
    return tuple(
        GateRate(one.id, one.options[j].id, i, j, found.seen[i, j], found.opened[i, j], found.chosen[i, j])
        for i, one in enumerate(found.engine.world.encounters)
        for j in found.gated(i)
    )


def _spreads(world: World, found: Tally) -> dict[str, VariableSpread]:
    if not world.variables:
        return {}
    # A row a variable: numpy's overhead for each of them would be most of the time of a world with thousands.
    ends = np.array(found.ends).T.copy()
    bounds = np.array([(variable.minimum, variable.maximum) for variable in world.variables.values()])
    # Never true of an infinite bound: values are finite.
    at_bound = (ends == bounds[:, :1]) | (ends == bounds[:, 1:])
    columns = (ends.mean(1).tolist(), ends.std(1).tolist(), at_bound.mean(1).tolist())
    return {name: VariableSpread(*row) for name, row in zip(world.variables, zip(*columns, strict=True), strict=True)}


def _static_issues(plan: Plan) -> tuple[Issue, ...]:
    # Bounded: a policy can write thousands of faults, and nobody reads them.
    errors = [Issue(json_path(fault.path), fault.message) for fault in islice(faults(plan.world), MOST_ISSUES)]
    warnings = islice(lint_warnings(plan), MOST_ISSUES)
    return (*errors, *[Issue(json_path(fault.path), fault.message, "warning") for fault in warnings])


def _entropy(counts: Iterable[int]) -> float:
    numbers = [count for count in counts if count]
    total = sum(numbers)
    # max: of one kind alone the sum is -0.0
    return max(0.0, -sum(count / total * math.log2(count / total) for count in numbers))
