"""The engine: how any storyworld is played, with scripts, spools, turns and selection.

1. A play starts at ``World.start``, or the first encounter, in turn 0.
2. An option is open where all its gates, and all it needs to be performed, hold. Where none is open the play ends.
3. Of an option's reactions the most desirable follows; of equals the first (or the last, ``reaction_tie``).
4. Its effects change the state one after the other, each clamped to its variable's bounds. The turn is one later.
5. The reaction names the encounter that follows, whatever its turns and acceptability, or leaves it to selection: of
   the encounters that this play has not met, whose spool is active, that are acceptable and whose turns allow it, the
   most desirable; of equals the first in the file. Where some have their turns later only, the turn becomes the
   nearest of them. Where there is none the story ends without a word (``implicit``).
6. An encounter without options is an ending.

Of plain worlds it makes the same plays as ``play.py`` and ``quick_plays.py``, which are several times as fast.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Literal, NamedTuple, get_args

from lit_narrative.errors import check_choice
from lit_narrative.tasks.storyworld.expressions import Happened, Node, nodes
from lit_narrative.tasks.storyworld.scripts import NUDGES, Nudge, Slot
from lit_narrative.tasks.storyworld.simulator.engine_scripts import (
    Candidate,
    SceneScripts,
    Slots,
    alternatives,
    compile_candidates,
    compile_scene,
)
from lit_narrative.tasks.storyworld.simulator.plan import DANGLING, END, IMPLICIT
from lit_narrative.tasks.storyworld.simulator.records import MAX_STEPS
from lit_narrative.tasks.storyworld.world import WILD, Effect, Encounter, SpoolEffect, World

SELECTION = -4
"""Target of a reaction that leaves to the engine what follows."""
Key = tuple[int, tuple[float, ...], int, int]
"""Encounter, state, and what selection asks of the past: encounters met, and the turn."""
ReactionTie = Literal["first", "last"]
"""Which of equally desirable reactions follows."""


class Moment(NamedTuple):
    """Where a play stands.

    Attributes:
        index: position of the encounter; ``END``, ``IMPLICIT`` or ``DANGLING`` where the play is over.
        state: values of the variables, then spools (1 while active), then events (1 once they happened); not changed.
        visited: encounters met, the present one included, bit i for position i.
        turn: the story's clock: choices so far, and what selection skipped.
    """

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    state: Sequence[float]
    visited: int
    turn: int


class Way(NamedTuple):
    """What may follow an option.

    Attributes:
        reaction: position of the reaction that says so; ``None`` where none does.
        target: position of the encounter that follows, or ``END``, ``IMPLICIT``, ``DANGLING``, ``SELECTION``.
        events: places in the state of what has happened then.
        changed: places of the variables that its effects change.
    """

    reaction: int | None
    target: int
    events: tuple[int, ...]
    changed: tuple[int, ...]


class Engine:
    """A world prepared for play; encounters are compiled when a play first comes to them.

    Args:
        world: any world.
        nudge: what ``nudge`` means in scripts and effects.
        reaction_tie: which of equally desirable reactions follows.
        flipped: options, as (encounter, option) positions, that are open where they would be closed, and the other way
            round: what if their conditions were their opposites?

    Attributes:
        names: variable names; a state lists their values first, in this order.
        start: the state at the start.
        options: for each encounter, the ids of its options.
        ways: for each encounter and option, what may follow.

    Raises:
        UserError: ``nudge`` or ``reaction_tie`` is not one of its values.
        ValueError: A script is nested too deep or has too many parts, which no reader lets pass.
    """

    def __init__(
        self,
        world: World,
        nudge: Nudge = "asymptotic",
        reaction_tie: ReactionTie = "first",
        flipped: Iterable[tuple[int, int]] = (),
    ) -> None:
        check_choice("nudge", nudge, NUDGES)
        check_choice("reaction_tie", reaction_tie, get_args(ReactionTie))
        self.world, self.nudge, self.reaction_tie = world, nudge, reaction_tie
        self.flipped: dict[int, set[int]] = {}
        for index, option in flipped:
            self.flipped.setdefault(index, set()).add(option)
        self.names = tuple(world.variables)
        self.positions: dict[str, int] = {}
        for index, encounter in enumerate(world.encounters):
            self.positions.setdefault(encounter.id, index)  # of two encounters with one id the first counts
        self.slots = _slots(world, nudge)
        self.start = _start(world, self.slots)
        self.options = tuple([tuple([option.id for option in one.options]) for one in world.encounters])
        self.ways = tuple([self._ways(encounter) for encounter in world.encounters])
        self._scenes: list[SceneScripts | None] = [None] * len(world.encounters)

    def begin(self) -> Moment:
        """The start of a play."""
        index = DANGLING
        if self.world.encounters:
            index = 0 if self.world.start is None else self.positions.get(self.world.start, DANGLING)
        return Moment(index, self.start, 1 << index if index >= 0 else 0, 0)

    def scene(self, index: int) -> SceneScripts:
        """The compiled scripts of an encounter."""
        known = self._scenes[index]
        if known is None:
            flipped = self.flipped.get(index, ())
            known = self._scenes[index] = compile_scene(self.world.encounters[index], self.slots, flipped)
        return known

    def open(self, moment: Moment) -> tuple[bool, ...]:
        """For each option of the encounter, whether it can be taken."""
        return self.scene(moment.index).open(moment.state)

    def preferred(self, moment: Moment, option: int) -> tuple[int, float]:
        """The alternative that would follow an option, and its desirability (0 where there is no other)."""
        desires = self.scene(moment.index).desires[option]
        if desires is None:
            return 0, 0.0
        values = desires(moment.state)
        best = max(values)
        if self.reaction_tie == "first":
            return values.index(best), best
        return len(values) - 1 - values[::-1].index(best), best

    def take(self, moment: Moment, option: int) -> tuple[Moment, Way]:
        """The moment after an option, and the way that led to it."""
        position, _ = self.preferred(moment, option)
        way, change = self.ways[moment.index][option][position], self.scene(moment.index).changes[option][position]
        state, visited, index, turn = moment.state, moment.visited, way.target, moment.turn + 1
        if change is not None or way.events:
            state = list(state)
            if change is not None:
                change(state)
            for place in way.events:
                state[place] = 1.0
        if index == SELECTION:
            index, turn = self.select(state, visited, turn)
        if index >= 0:
            visited |= 1 << index
        return Moment(index, state, visited, turn), way

    def key(self, moment: Moment) -> Key:
        """What decides how a play goes on: two moments with one key have the same future."""
        past = (moment.visited, moment.turn) if self.selects else (0, 0)
        return moment.index, tuple(moment.state), *past

    def select(self, state: Sequence[float], visited: int, turn: int) -> tuple[int, int]:
        """The encounter that selection chooses (``IMPLICIT`` where there is none), and the turn then."""
        found, most, later = IMPLICIT, -math.inf, math.inf
        for index, first, last, spools, acceptable, desirability in self.candidates:
            if turn > last or visited >> index & 1 or first >= later:
                continue
            if (spools and not any([state[spool] for spool in spools])) or not acceptable(state):
                continue
            if first > turn:
                later = first
                continue
            later = turn + 1  # one whose turns allow it is enough: those of later turns are not looked at
            if (wanted := desirability(state)) > most:
                found, most = index, wanted
        # Ends, since the turn grows with each skip and candidates are finite.
        return (found, turn) if found >= 0 or later == math.inf else self.select(state, visited, int(later))

    @cached_property
    def candidates(self) -> tuple[Candidate, ...]:
        """The encounters that selection may choose."""
        listed = [(index, self.world.encounters[index]) for index in self.positions.values()]
        return compile_candidates(listed, self.slots)

    @cached_property
    def selects(self) -> bool:
        """Whether any reaction leaves to the engine what follows."""
        return any([way.target == SELECTION for scene in self.ways for ways in scene for way in ways])

    def compile(self) -> None:
        """Compile every encounter now."""
        for index in range(len(self.world.encounters)):
            self.scene(index)
        if self.selects:
            _ = self.candidates

    @cached_property
    def cost(self) -> int:
        """Parts that a step looks at, at most: the variables, the scripts of an encounter, and those of selection."""
        encounters = self.world.encounters
        scenes = [
            len(one.options) + sum([1 for _ in nodes(*scripts_of((one,), selection=False))]) for one in encounters
        ]
        selection = sum([1 for _ in nodes(*[script for one in encounters for script in selection_of(one)])])
        return 1 + len(self.start) + max(scenes, default=0) + self.selects * (len(encounters) + selection)

    def affordable(self, runs: int, max_steps: int, most: int) -> int:
        """How many of ``runs`` plays of ``max_steps`` steps look at ``most`` parts together; at least one."""
        # Beside its steps a play costs what counting it does, as much as some steps.
        return max(1, min(runs, most // (self.cost * max(max_steps, MAX_STEPS))))

    def _ways(self, encounter: Encounter) -> tuple[tuple[Way, ...], ...]:
        return tuple([self._ways_of(encounter, j) for j in range(len(encounter.options))])

    def _ways_of(self, encounter: Encounter, j: int) -> tuple[Way, ...]:
        option, places, found = encounter.options[j], self.slots.places, []
        for first, last in alternatives(option):
            leads = bool(option.reactions) and option.reactions[last].leads
            target = self._target(option.reactions[last].next_encounter) if leads else IMPLICIT
            events: list[int] = []
            if len(places) > len(self.names):  # some script asks for an event
                told = [Happened(encounter.id), Happened(encounter.id, j)]
                told += [Happened(encounter.id, where, k) for k in range(first, last + 1) for where in (j, None)]
                events = [places[one] for one in told if one in places]
            walked = option.reactions[first : last + 1]
            names = {effect.variable for one in walked for effect in one.effects if isinstance(effect, Effect)}
            changed = tuple([places[name] for name in names if name in self.slots.bounds])
            found.append(Way(last if leads else None, target, tuple(events), changed))
        return tuple(found)

    def _target(self, name: str | None) -> int:
        if name is None:
            return END
        return self.positions.get(name, SELECTION if name == WILD else DANGLING)


def scripts_of(encounters: Iterable[Encounter], selection: bool = True) -> Iterator[Node]:
    """Every condition and expression of encounters; without ``selection`` those only that a step there looks at."""
    for encounter in encounters:
        yield from selection_of(encounter) if selection else ()
        for option in encounter.options:
            yield from option.gates
            yield from option.performable
            for reaction in option.reactions:
                yield reaction.desirability
                for effect in reaction.effects:
                    if isinstance(effect, Effect):
                        yield effect.change if effect.value is None else effect.value
                    elif not isinstance(effect.active, bool):
                        yield effect.active


def selection_of(encounter: Encounter) -> tuple[Node, ...]:
    """The conditions and the expression by which an encounter is selected."""
    return (*encounter.acceptability, encounter.desirability)


def _slots(world: World, nudge: Nudge) -> Slots:
    """Variables first, then spools, then events."""
    places: dict[Slot, int] = {name: place for place, name in enumerate(world.variables)}
    named = [spool for encounter in world.encounters for spool in encounter.spools]
    effects = [
        effect
        for encounter in world.encounters
        for option in encounter.options
        for reaction in option.reactions
        for effect in reaction.effects
    ]
    named += [effect.spool for effect in effects if isinstance(effect, SpoolEffect)]
    spools = {name: len(places) + n for n, name in enumerate(dict.fromkeys([*world.spools, *named]))}
    events = dict.fromkeys([node for node in nodes(*scripts_of(world.encounters)) if isinstance(node, Happened)])
    for n, event in enumerate(events):
        places[event] = len(world.variables) + len(spools) + n
    bounds = {name: (variable.minimum, variable.maximum) for name, variable in world.variables.items()}
    return Slots(places, spools, bounds, nudge)


def _start(world: World, slots: Slots) -> tuple[float, ...]:
    # A spool that is named and not declared is active.
    spools = [float(world.spools.get(name, True)) for name in slots.spools]
    events = [0.0] * (len(slots.places) - len(world.variables))
    return (*[float(variable.initial) for variable in world.variables.values()], *spools, *events)
