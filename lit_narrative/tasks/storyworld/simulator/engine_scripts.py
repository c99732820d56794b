"""Scripts of a whole encounter compiled at once: which options are open, which reaction follows, what it changes.

Each is a Python function over the state ``s``, a list of numbers. Compiling hundreds of scripts together takes a tenth
of the time of compiling them one by one; an encounter's are compiled when a play first comes to it.
"""

import math
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from lit_narrative.tasks.storyworld.expressions import LARGEST, Condition, Expr
from lit_narrative.tasks.storyworld.scripts import NAMES, Nudge, Slot, source
from lit_narrative.tasks.storyworld.world import UNBOUNDED, Effect, Encounter, Option, Reaction, SpoolEffect

State = list[float]
OpenOptions = Callable[[Sequence[float]], tuple[bool, ...]]
Desires = Callable[[Sequence[float]], tuple[float, ...]]
Change = Callable[[State], None]
_AT_ONCE = 64
"""Encounters whose selection is compiled together."""


class Slots(NamedTuple):
    """Where in the state what stands, and how it is read.

    Attributes:
        places: of each variable and of each event that a script asks for.
        spools: of each spool, 1 while it is active.
        bounds: of each variable.
        nudge: what ``nudge`` means.
    """

    places: Mapping[Slot, int]
    spools: Mapping[str, int]
    bounds: Mapping[str, tuple[float, float]]
    nudge: Nudge


class SceneScripts(NamedTuple):
    """The scripts of an encounter.

    Attributes:
        open: for each option, whether it can be taken.
        desires: for each option, the desirability of each of its alternatives; ``None`` where there is one alone.
        changes: for each option and alternative, what changes the state in place; ``None`` where nothing does.
    """

    open: OpenOptions
    desires: tuple[Desires | None, ...]
    changes: tuple[tuple[Change | None, ...], ...]


def alternatives(option: Option) -> list[tuple[int, int]]:
    """What may follow an option: (first, last) positions of the reactions that are walked together.

    Each reaction that leads, with those before it that do not, is one alternative. Where none leads, all are walked.
    """
    found, first = [], 0
    for position, reaction in enumerate(option.reactions):
        if reaction.leads:
            found.append((first, position))
            first = position + 1
    return found or [(0, len(option.reactions) - 1)]


def compile_scene(encounter: Encounter, slots: Slots, flipped: Container[int] = ()) -> SceneScripts:
    """Compile what an encounter needs in play; the options at ``flipped`` are open where they would be closed."""
    tests = [_open(option, slots) for option in encounter.options]
    told = _tuple(f"not ({test})" if j in flipped else test for j, test in enumerate(tests))
    lines = [f"def open_(s): return {told}"]
    desires: list[str] = []
    changes: list[list[str]] = []
    for j, option in enumerate(encounter.options):
        ways = alternatives(option)
        desires.append(f"desire_{j}" if len(ways) > 1 else "None")
        if len(ways) > 1:
            values = (number(option.reactions[last].desirability, slots) for _, last in ways)
            lines.append(f"def desire_{j}(s): return {_tuple(values)}")
        changes.append([])
        for k, (first, last) in enumerate(ways):
            body = [*_statements(option.reactions[first : last + 1], slots)]
            changes[j].append(f"change_{j}_{k}" if body else "None")
            if body:
                lines += [f"def change_{j}_{k}(s):", *body]
    listed = _tuple(_tuple(ways) for ways in changes)
    made = _run([*lines, f"made = (open_, {_tuple(desires)}, {listed})"])
    return SceneScripts(*made)


class Candidate(NamedTuple):
    """An encounter as selection sees it.

    Attributes:
        index: its position.
        first: first turn at which it is selected.
        last: last turn, infinite where there is none.
        spools: places of its spools in the state; none for an encounter that is always in the pool.
        acceptable: whether its conditions hold.
        desirability: how much it is wanted.
    """

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    first: int
    last: float
    spools: tuple[int, ...]
    acceptable: Callable[[Sequence[float]], bool]
    desirability: Callable[[Sequence[float]], float]


def compile_candidates(encounters: Iterable[tuple[int, Encounter]], slots: Slots) -> tuple[Candidate, ...]:
    """Compile how encounters are selected; those that no turn allows are left out."""
    kept = [(i, one) for i, one in encounters if not 0 < one.turns[1] < one.turns[0]]
    found: list[Candidate] = []
    for start in range(0, len(kept), _AT_ONCE):
        group = kept[start : start + _AT_ONCE]
        pairs = (
            f"((lambda s: {_all(one.acceptability, slots)}), (lambda s: {number(one.desirability, slots)}))"
            for _, one in group
        )
        made = _run([f"made = {_tuple(pairs)}"])
        for (i, one), (acceptable, desirability) in zip(group, made, strict=True):
            spools = tuple([slots.spools[spool] for spool in one.spools])
            found.append(Candidate(i, one.turns[0], one.turns[1] or math.inf, spools, acceptable, desirability))
    return tuple(found)


def number(expr: Expr, slots: Slots) -> str:
    """The source of an expression whose value is cut to ±``LARGEST``."""
    text = source(expr, slots.places, slots.nudge)
    if isinstance(expr, float | int | str):
        return text  # a number of the file, or a variable: within bounds already
    return f"(v if {-LARGEST} <= (v := {text}) <= {LARGEST} else cut(v))"


def _open(option: Option, slots: Slots) -> str:
    return _all((*option.gates, *option.performable), slots)


def _all(conditions: Sequence[Condition], slots: Slots) -> str:
    # Joined here rather than by AllOf: a policy may write more gates on an option than one script may have parts.
    return " and ".join([source(one, slots.places, slots.nudge) for one in conditions]) or "True"


def _statements(reactions: Iterable[Reaction], slots: Slots) -> Iterable[str]:
    for reaction in reactions:
        for effect in reaction.effects:
            if isinstance(effect, SpoolEffect):
                yield _spool(effect, slots)
            elif effect.variable in slots.bounds:
                yield _change(effect, slots)


def _spool(effect: SpoolEffect, slots: Slots) -> str:
    active = effect.active
    test = str(active) if isinstance(active, bool) else source(active, slots.places, slots.nudge)
    return f" s[{slots.spools[effect.spool]}] = 1.0 if {test} else 0.0"


def _change(effect: Effect, slots: Slots) -> str:
    place, bounds = f"s[{slots.places[effect.variable]}]", slots.bounds[effect.variable]
    if effect.value is None:
        value = f"{place} + {float(effect.change)!r}"
    elif effect.op == "add":
        value = f"{place} + {number(effect.value, slots)}"
    elif effect.op == "nudge":
        nudge = "add" if slots.nudge == "additive" else "nudge"
        value = f"{nudge}({place}, {number(effect.value, slots)})"
    else:
        value = number(effect.value, slots)
    if bounds == UNBOUNDED:
        return f" {place} = {value}"
    low, high = (_bound(bound) for bound in bounds)
    return f" v = {value}; {place} = {low} if v < {low} else {high} if v > {high} else v"


def _bound(value: float) -> str:
    return repr(float(value)) if math.isfinite(value) else "inf" if value > 0 else "-inf"


def _tuple(parts: Iterable[str]) -> str:
    listed = ", ".join(parts)
    return f"({listed},)" if listed else "()"


def _run(lines: Sequence[str]) -> Any:
    """What the lines leave in ``made``; they hold numbers, slots and operators only (``scripts.source``)."""
    scope: dict[str, object] = {**NAMES, "inf": math.inf}
    exec("\n".join(lines), scope)
    return scope["made"]
