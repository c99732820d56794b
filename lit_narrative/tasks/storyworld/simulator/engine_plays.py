"""Plays of an engine: what a policy is told, one play, and every play there is."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from lit_narrative.tasks.storyworld.simulator.engine import Engine, Moment
from lit_narrative.tasks.storyworld.simulator.records import OUTCOMES, Play, Step, chosen, ended, named, renamed
from lit_narrative.tasks.storyworld.world import Encounter


@dataclass(frozen=True, slots=True)
class Situation:
    """What a policy chooses in.

    Attributes:
        engine: of the world.
        moment: where the play stands.
        state: value of each variable.
        open_options: positions of the options that can be taken, at least one.
        steps: the moments before this one.
    """

    engine: Engine
    moment: Moment
    state: dict[str, float]
    open_options: tuple[int, ...]
    steps: Sequence[Step]

    @property
    def encounter(self) -> Encounter:
        """The encounter whose options are offered."""
        return self.engine.world.encounters[self.moment.index]


Policy = Callable[[Situation], int]
"""From a situation to one of its ``open_options``."""


def engine_play(engine: Engine, policy: Policy, max_steps: int) -> Play:
    """Play once.

    Args:
        engine: of the world.
        policy: what chooses.
        max_steps: bound on the number of steps, at least 1.
    """
    steps: list[Step] = []
    moment, state = engine.begin(), named(engine.names, engine.start)
    while moment.index >= 0 and len(steps) < max_steps:
        step = look(engine, moment, state, len(steps))
        open_options = tuple([i for i, free in enumerate(step.open) if free])
        if not open_options:
            steps.append(step)
            return ended(steps, "stuck" if step.options else "ending", state)
        choice = policy(Situation(engine, moment, state, open_options, steps))
        moment, way = engine.take(moment, choice)
        steps.append(chosen(step, choice, way.reaction))
        state = renamed(state, engine.names, way.changed, moment.state)
    return ended(steps, OUTCOMES.get(moment.index, "timeout"), state)


def engine_paths(engine: Engine, limit: int, max_steps: int) -> Iterator[Play]:
    """Every play that open options allow, at most ``limit`` of them, depth first in the order of the file."""
    count = 0
    # A stack rather than recursion: a play may be longer than Python's stack is deep.
    pending: list[tuple[Moment, dict[str, float], list[Step]]]
    pending = [(engine.begin(), named(engine.names, engine.start), [])]
    while pending and count < limit:
        moment, state, steps = pending.pop()
        if moment.index < 0 or len(steps) >= max_steps:
            count += 1
            yield ended(steps, OUTCOMES.get(moment.index, "timeout"), state)
            continue
        step = look(engine, moment, state, len(steps))
        if not any(step.open):
            count += 1
            yield ended([*steps, step], "stuck" if step.options else "ending", state)
            continue
        for i in reversed(range(len(step.open))):  # the first option is pushed last, and so played first
            if step.open[i]:
                after, way = engine.take(moment, i)
                told = renamed(state, engine.names, way.changed, after.state)
                pending.append((after, told, [*steps, chosen(step, i, way.reaction)]))


def look(engine: Engine, moment: Moment, state: dict[str, float], turn: int) -> Step:
    """The step at a moment, before its choice; ``turn`` is the number of steps before it."""
    encounter = engine.world.encounters[moment.index]
    names = engine.options[moment.index]
    visited = moment.visited.bit_count()
    return Step(encounter.id, moment.index, state, names, engine.open(moment), None, turn, visited, None)
