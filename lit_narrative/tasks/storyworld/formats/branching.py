"""What the writers of ink and Twee share: which worlds they can say, names, and scripts as code.

Both formats have variables, conditions and links, and no engine: what follows has to be said by the reaction.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce

from lit_narrative.errors import UserError
from lit_narrative.tasks.storyworld.expressions import (
    COMPARISONS,
    AllOf,
    AnyOf,
    Apply,
    Condition,
    Gate,
    Happened,
    Holds,
    Node,
    Not,
    nodes,
)
from lit_narrative.tasks.storyworld.world import WILD, Effect, Encounter, Option, Reaction, SpoolEffect, World

FUNCTIONS = ("abs", "min", "max", "clamp", "nudge", "blend", "near", "distance", "bounded_sum", "choose")
"""Functions that the code of scripts calls; each writer defines them in its language, of two or three numbers."""


def refuse_inexpressible(world: World, name: str) -> None:
    """Refuse a world that leaves to an engine what a branching format has to say itself.

    Raises:
        UserError: A choice leaves what follows to the engine, changes a spool, or a script asks what has happened.
    """
    ids = {encounter.id for encounter in world.encounters}
    for encounter in world.encounters:
        for option in encounter.options:
            where = f"option {option.id[:80]!r} of encounter {encounter.id[:80]!r}"
            for reaction in option.reactions:
                if reaction.next_encounter == WILD and WILD not in ids:
                    raise _refusal(name, f"{where} leaves what follows to the engine", "name the encounter")
                if any([isinstance(effect, SpoolEffect) for effect in reaction.effects]):
                    raise _refusal(name, f"{where} changes a spool", "remove that effect")
            if any([isinstance(node, Happened) for node in nodes(*_scripts(option))]):
                raise _refusal(name, f"{where} asks what has happened before", "use a variable")


def _refusal(name: str, what: str, remedy: str) -> UserError:
    return UserError(f"{name} cannot say this world: {what}; {remedy}, or convert to simple or sweepweave")


def _scripts(option: Option) -> list[Node]:
    effects = [effect for reaction in option.reactions for effect in reaction.effects]
    values = [effect.value for effect in effects if isinstance(effect, Effect) and effect.value is not None]
    return [*option.gates, *option.performable, *values, *[reaction.desirability for reaction in option.reactions]]


def met_by_id(world: World) -> list[Encounter]:
    """The encounters that a link can lead to, in order: of two with one id the first is played."""
    found: dict[str, Encounter] = {}
    for encounter in world.encounters:
        found.setdefault(encounter.id, encounter)
    return list(found.values())


def identifiers(names: Iterable[str], prefix: str) -> dict[str, str]:
    """An identifier of ASCII letters, digits and underscores for each name, no two alike."""
    return {name: f"{prefix}{i}_{re.sub(r'[^A-Za-z0-9]+', '_', name)[:40].strip('_')}" for i, name in enumerate(names)}


def decimal(number: float) -> str:
    """A number without an exponent and with a point, as every one of these languages reads it."""
    text = f"{number:.12f}".rstrip("0")
    return text + "0" if text.endswith(".") else text


@dataclass(frozen=True, slots=True)
class Code:
    """How one language writes scripts; all of them have ``&& || ! + - * / < <= > >= == !=`` and calls.

    Attributes:
        variables: how each variable of the world is written.
        function: how the name of one of ``FUNCTIONS`` is written.
        slack: of comparisons, as the numbers of the language need it.
    """

    variables: dict[str, str]
    function: Callable[[str], str]
    slack: float

    def node(self, node: Node) -> str:
        """An expression or a condition, in brackets where it needs any."""
        match node:
            case str():
                return self.variables.get(node, "0.0")
            case Apply(op, args):
                return self._applied(op, args)
            case Gate(variable, comparison, value):
                return self._compared(comparison, self.node(variable), decimal(value))
            case AnyOf(parts) | AllOf(parts):
                # A comparison, not a literal: one of these languages takes a lone `true` in a condition for a name.
                neutral = "(1 == 1)" if isinstance(node, AllOf) else "(1 == 0)"
                sign = " && " if isinstance(node, AllOf) else " || "
                return f"({sign.join([self.node(part) for part in parts])})" if parts else neutral
            case Not(part):
                return f"(!{self.node(part)})"
            case Holds(Apply(op, (left, right))) if op in COMPARISONS:
                return self._compared(op, self.node(left), self.node(right))
            case Holds(Apply("xor" | "same" as op, args)):
                return self._logical(op, [self.node(arg) for arg in args])
            case Holds(expr):
                return f"({self.node(expr)} != 0.0)"
            case Happened():
                raise ValueError("refuse_inexpressible comes first")
        return decimal(float(node)) if node >= 0 else f"({decimal(float(node))})"

    def call(self, name: str, *args: str) -> str:
        """A call of one of ``FUNCTIONS``."""
        return f"{self.function(name)}({', '.join(args)})"

    def all_of(self, conditions: Sequence[Condition]) -> str:
        """Several conditions that all have to hold; empty without any."""
        return self.node(AllOf(tuple(conditions))) if conditions else ""

    def _compared(self, comparison: str, left: str, right: str) -> str:
        slack = decimal(self.slack)
        if comparison in ("==", "!="):
            distance = self.call("abs", f"{left} - {right}")
            return f"({distance} {'<=' if comparison == '==' else '>'} {slack})"
        return f"({left} {comparison} {right} {'-' if comparison in ('>=', '<') else '+'} {slack})"

    def _logical(self, op: str, args: list[str]) -> str:
        if op == "xor":
            return reduce(lambda left, right: f"({left} != {right})", args)
        return "(" + " && ".join([f"({args[0]} == {arg})" for arg in args[1:]]) + ")"

    def _applied(self, op: str, args: Sequence[Node]) -> str:
        if op in COMPARISONS or op in ("xor", "same"):
            return self.call("choose", self.node(Holds(Apply(op, tuple(args)))), "1.0", "0.0")
        codes = [self.node(arg) for arg in args]
        match op:
            case "+" | "*" | "-":
                return f"({f' {op} '.join(codes)})"
            case "mean":
                return f"(({' + '.join(codes)}) / {decimal(len(codes))})"
            case "neg":
                return f"(0.0 - {codes[0]})"
            case "min" | "max" | "bounded_sum":
                return reduce(lambda left, right: self.call(op, left, right), codes)
            case "if":
                return self.call("choose", *codes)
        return self.call(op, *codes)

    def changed(self, effect: Effect, world: World) -> str:
        """What an effect makes of its variable."""
        variable, here = world.variables[effect.variable], self.variables[effect.variable]
        value = decimal(effect.change) if effect.value is None else self.node(effect.value)
        match effect.op if effect.value is not None else "add":
            case "add":
                value = f"{here} + ({value})"
            case "nudge":
                value = self.call("nudge", here, value)
        if variable.minimum > float("-inf"):
            value = self.call("max", value, decimal(variable.minimum))
        if variable.maximum < float("inf"):
            value = self.call("min", value, decimal(variable.maximum))
        return value


def ending_of(reaction: Reaction, encounter: str, known: Iterable[str]) -> str | None:
    """The ending that a reaction comes to: the encounter's id, "" where it leads nowhere; ``None`` if it leads on."""
    if not reaction.leads or (reaction.next_encounter is not None and reaction.next_encounter not in known):
        return ""
    return encounter if reaction.next_encounter is None else None


def most_desirable(desirabilities: Sequence[str]) -> list[str]:
    """Of several numbers, the conditions under which each but the last is the first of the largest, tried in order."""
    return [
        "(" + " && ".join([f"({one} >= {other})" for other in desirabilities[i + 1 :]]) + ")"
        for i, one in enumerate(desirabilities[:-1])
    ]


def changes(run: Sequence[Reaction], world: World) -> list[Effect]:
    """The effects of a run of reactions on variables that are declared."""
    effects = [effect for reaction in run for effect in reaction.effects]
    return [effect for effect in effects if isinstance(effect, Effect) and effect.variable in world.variables]
