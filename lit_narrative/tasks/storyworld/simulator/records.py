"""What a play leaves: its steps, its outcome, and the state at its end."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TextIO

from lit_narrative.files import whole_file
from lit_narrative.tasks.storyworld.simulator.plan import DANGLING, END, IMPLICIT

Outcome = Literal["ending", "implicit", "stuck", "dangling", "timeout"]
MAX_STEPS = 20
"""Bound on the steps of a play, unless another is given."""
OUTCOMES: dict[int, Outcome] = {END: "ending", IMPLICIT: "implicit", DANGLING: "dangling"}


@dataclass(frozen=True, slots=True)
class Step:
    """A moment of a play, before its choice takes effect.

    Attributes:
        encounter: id of the encounter.
        index: its position in the file.
        state: value of each variable.
        options: ids of the encounter's options, in the order of the file.
        open: for each option, whether its gates hold.
        choice: position of the chosen option; ``None`` where there was none to choose.
        turn: number of steps before this one.
        visited: number of distinct encounters seen so far, this one included.
        reaction: position of the reaction that said what follows; ``None`` where none did.
    """

    encounter: str
    index: int
    state: dict[str, float]
    options: tuple[str, ...]
    open: tuple[bool, ...]
    choice: int | None
    turn: int
    visited: int
    reaction: int | None


@dataclass(frozen=True, slots=True)
class Play:
    """A play from the first encounter on.

    Attributes:
        steps: the moments, in order.
        outcome: ``ending`` (the story says so: an encounter without options, or ``next_encounter`` is null),
            ``implicit`` (the chosen option names nothing that follows), ``stuck`` (no option is open),
            ``dangling`` (what follows does not exist), ``timeout`` (the bound on steps was met).
        ending: id of the encounter where an ``ending`` play ended, else ``None``.
        state: value of each variable at the end.
    """

    steps: tuple[Step, ...]
    outcome: Outcome
    ending: str | None
    state: dict[str, float]

    @property
    def choices(self) -> tuple[str, ...]:
        """Ids of the chosen options, in order."""
        return tuple(step.options[step.choice] for step in self.steps if step.choice is not None)


def chosen(step: Step, choice: int, reaction: int | None) -> Step:
    """The step with its choice, and the reaction that followed."""
    return Step(
        step.encounter, step.index, step.state, step.options, step.open, choice, step.turn, step.visited, reaction
    )


def ended(steps: Sequence[Step], outcome: Outcome, state: dict[str, float]) -> Play:
    """The play that ends with these steps."""
    return Play(tuple(steps), outcome, steps[-1].encounter if outcome == "ending" else None, state)


def named(names: Iterable[str], state: Sequence[float]) -> dict[str, float]:
    """The variables by name."""
    return {name: shown(value) for name, value in zip(names, state, strict=False)}


def renamed(
    before: Mapping[str, float], names: Sequence[str], changed: Iterable[int], state: Sequence[float]
) -> dict[str, float]:
    """The variables by name where only those at the ``changed`` places differ from ``before``."""
    # A copy with what has changed: with all values named anew, a world of many variables would take long.
    return {**before, **{names[i]: shown(state[i]) for i in changed}}


def shown(value: float) -> float:
    """A value as plays show it."""
    # Nine decimals hide the drift of repeated addition: 0.1 + 0.2 + 0.1 + 0.3 reads 0.7.
    return round(value, 9)


def trace(world: str, number: int, play: Play) -> Iterator[dict[str, Any]]:
    """The rows of a play as traces have them: one for each step, then one with its outcome.

    Args:
        world: what to call the world.
        number: of the play.
        play: the play.

    Yields:
        ``world``, ``play``, ``step``, ``encounter``, ``state``, ``legal`` (ids of the open options), ``choice`` (the id
        of the one taken, null where there was none) and ``reaction`` (position of the one that followed); the last row
        has ``state``, ``outcome`` and ``ending``.
    """
    for step in play.steps:
        yield {
            "world": world,
            "play": number,
            "step": step.turn,
            "encounter": step.encounter,
            "state": step.state,
            "legal": [name for name, free in zip(step.options, step.open, strict=True) if free],
            "choice": None if step.choice is None else step.options[step.choice],
            "reaction": step.reaction,
        }
    last = {"world": world, "play": number, "step": len(play.steps), "state": play.state}
    yield {**last, "outcome": play.outcome, "ending": play.ending}


class Traces:
    """A writer of traces: takes plays, and writes the rows of each if it has a file.

    Attributes:
        count: plays that it has taken.
    """

    def __init__(self, world: str, lines: TextIO | None = None) -> None:
        self.world, self.lines, self.count = world, lines, 0

    def __call__(self, play: Play) -> None:
        """Take a play."""
        if self.lines is not None:
            rows = trace(self.world, self.count, play)
            self.lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        self.count += 1


@contextmanager
def write_traces(file: str | None, world: str) -> Iterator[Traces]:
    """Write the traces of plays to a file, one JSON object a line, whole or not at all; without a file, to nowhere."""
    if file is None:
        yield Traces(world)
        return
    # Written as they are made: a million steps need not be in memory.
    with whole_file(file) as temporary, open(temporary, "w", encoding="utf-8", errors="backslashreplace") as lines:
        yield Traces(world, lines)
