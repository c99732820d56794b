"""Statistics of many seeded plays of a world: its endings, dead ends, gates and variables."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from lit_narrative.report.intervals import share_interval
from lit_narrative.tasks.storyworld.checks import faults
from lit_narrative.tasks.storyworld.issues import MOST_ISSUES, Issue, json_path
from lit_narrative.tasks.storyworld.simulator.graph import can_end, lint_warnings
from lit_narrative.tasks.storyworld.simulator.plan import Plan, affordable, is_open, make_plan
from lit_narrative.tasks.storyworld.simulator.play import MAX_STEPS, Chooser, Outcome, Play, Step, plays, uniform
from lit_narrative.tasks.storyworld.world import World

DEAD_ENDS: tuple[Outcome, ...] = ("stuck", "dangling", "timeout")
"""Outcomes of a play that the story did not mean."""
MOST_PARTS = 20_000_000
"""Bound on the parts that the plays look at; every play is kept, at some 100 bytes a part."""


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
        seen: number of times it was offered.
        open: number of those at which its gates held.
        chosen: number of those at which it was taken.
    """

    encounter: str
    option: str
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
    reachability: float
    coverage: float
    gates: tuple[GateRate, ...]
    secret_reach: float
    late_block: float
    path_diversity: float
    path_entropy: float
    variables: dict[str, VariableSpread]
    issues: tuple[Issue, ...]


def simulate(world: World, runs: int, seed: int, choose: Chooser = uniform, max_steps: int = MAX_STEPS) -> Simulation:
    """Play ``world`` many times and count.

    Args:
        world: any world that the reader returns.
        runs: number of plays, at least 1; fewer are made of a world with thousands of parts (``plan.affordable``).
        seed: the result is a pure function of the other arguments and this.
        choose: the policy.
        max_steps: bound on the steps of each play.

    Raises:
        ValueError: ``runs`` is below 1.
    """
    if runs < 1:
        raise ValueError(f"runs is {runs}; it must be 1 or more")
    plan = make_plan(world)
    runs = affordable(plan, runs, max_steps, MOST_PARTS)
    played = list(plays(plan, runs, np.random.default_rng(seed), choose, max_steps))
    outcomes = {name: count / runs for name, count in Counter(one.outcome for one in played).items()}
    ended = Counter(one.ending for one in played if one.ending is not None)
    endings = _ending_rates(plan, ended, runs)
    entropy = _entropy(ended.values())
    # By id, as are the declared ones: of encounters with one id only the first can be visited.
    visited = {step.encounter for one in played for step in one.steps}
    paths = Counter(one.choices for one in played)
    return Simulation(
        runs=runs,
        outcomes=outcomes,
        dead_end_rate=sum(outcomes.get(name, 0.0) for name in DEAD_ENDS),
        endings=endings,
        entropy=entropy,
        effective_endings=2**entropy if ended else 0.0,
        reachability=_mean([rate.share > 0 for rate in endings]),
        coverage=len(visited) / max(len({encounter.id for encounter in world.encounters}), 1),
        gates=_gate_rates(plan, played),
        secret_reach=_secret_reach(plan, played),
        late_block=_late_block(played),
        path_diversity=len(paths) / runs,
        path_entropy=_entropy(paths.values()),
        variables=_spreads(world, played),
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


def _gate_rates(plan: Plan, played: Sequence[Play]) -> tuple[GateRate, ...]:
    seen: Counter[tuple[int, int]] = Counter()
    opened: Counter[tuple[int, int]] = Counter()
    chosen: Counter[tuple[int, int]] = Counter()
    for step in (step for one in played for step in one.steps):
        for j, choice in enumerate(plan.scenes[step.index]):
            if choice.tests:
                seen[step.index, j] += 1
                opened[step.index, j] += step.open[j]
                chosen[step.index, j] += step.choice == j
    return tuple(
        GateRate(encounter.id, option.id, seen[i, j], opened[i, j], chosen[i, j])
        for i, encounter in enumerate(plan.world.encounters)
        for j, option in enumerate(encounter.options)
        if option.gates
    )


def _secret_reach(plan: Plan, played: Sequence[Play]) -> float:
    def is_secret(step: Step) -> bool:
        # Closed in the initial state: no play can begin with it, something had to be done for it.
        return step.choice is not None and not is_open(plan.scenes[step.index][step.choice], plan.start)

    return _mean([any(map(is_secret, one.steps)) for one in played])


def _late_block(played: Sequence[Play]) -> float:
    # Rounded up: a play of one or two steps has a last third too.
    late = [step.open for one in played for step in one.steps[-math.ceil(len(one.steps) / 3) :]]
    return _mean([not free for bits in late for free in bits])


def _spreads(world: World, played: Sequence[Play]) -> dict[str, VariableSpread]:
    if not world.variables:
        return {}
    # A row a variable: numpy's overhead for each of them would be most of the time of a world with thousands.
    ends = np.array([list(one.state.values()) for one in played]).T.copy()
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


def _mean(values: Sequence[bool]) -> float:
    return sum(values) / len(values) if values else 0.0
