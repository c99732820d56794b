"""Expressions and conditions as scripts of SweepWeave: the inverse of ``script.py``."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from lit_narrative.tasks.storyworld.expressions import (
    COMPARISONS,
    AllOf,
    AnyOf,
    Apply,
    Condition,
    Expr,
    Gate,
    Happened,
    Holds,
    Node,
    Not,
)
from lit_narrative.tasks.storyworld.formats.sweepweave.script import COMPARATORS, NUMBERS

Place = tuple[str, list[str], float]
"""Where the editor holds a variable: character, keyring, and what one unit of it there is worth."""
OPERATOR_TYPES: dict[str, str] = {ours: name for name, ours in reversed(list(NUMBERS.items()))}
SUBTYPES: dict[str, str] = {ours: name for name, ours in reversed(list(COMPARATORS.items()))}


def string_node(text: str) -> dict[str, Any]:
    """A text."""
    return {"pointer_type": "String Constant", "script_element_type": "Pointer", "value": text}


def number_node(value: float) -> dict[str, Any]:
    """A constant."""
    return {"pointer_type": "Bounded Number Constant", "script_element_type": "Pointer", "value": value}


def operator_node(kind: str, operands: Iterable[Any], subtype: str | None = None) -> dict[str, Any]:
    """An operator."""
    node: dict[str, Any] = {"operator_type": kind, "script_element_type": "Operator", "operands": list(operands)}
    return node if subtype is None else {**node, "operator_subtype": subtype}


def pointer_node(place: Place, coefficient: float = 1.0) -> dict[str, Any]:
    """A property of a character."""
    return {
        "pointer_type": "Bounded Number Pointer",
        "script_element_type": "Pointer",
        "character": place[0],
        "keyring": list(place[1]),
        "coefficient": coefficient,
    }


class ScriptNodes:
    """Writes scripts.

    Args:
        place: where a variable is held; ``None`` for one that is not declared and so reads 0.
    """

    def __init__(self, place: Callable[[str], Place | None]) -> None:
        self._place = place

    def all_of(self, conditions: Sequence[Condition]) -> Any:
        """The script of several conditions that all have to hold."""
        if not conditions:
            return True
        return self.node(conditions[0] if len(conditions) == 1 else AllOf(tuple(conditions)))

    def node(self, node: Node) -> Any:
        """The script of an expression or condition."""
        match node:
            case str():
                return self._pointer(node, 1.0)
            case Apply("*", (float() as factor, str() as name)):
                return self._pointer(name, factor)
            case Apply(op, args):
                return self._applied(op, args)
            case Gate():
                return self._gate(node)
            case AnyOf(()) | AllOf(()):
                value = isinstance(node, AllOf)
                return {"pointer_type": "Boolean Constant", "script_element_type": "Pointer", "value": value}
            case AnyOf(parts) | AllOf(parts):
                return operator_node("Or" if isinstance(node, AnyOf) else "And", map(self.node, parts))
            case Not(Happened() as happened):
                return self._event(happened, negated=True)
            case Not(part):
                return operator_node("Boolean Comparator", [self.node(part)], "NOT")
            case Holds(expr):
                return self._holds(expr)
            case Happened():
                return self._event(node, negated=False)
        return number_node(float(node))

    def _pointer(self, name: str, factor: float) -> Any:
        place = self._place(name)
        return number_node(0.0) if place is None else pointer_node(place, factor * place[2])

    def _applied(self, op: str, args: Sequence[Node]) -> Any:
        if op in COMPARISONS or op in ("xor", "same"):
            condition = self._holds(Apply(op, tuple(args)))
            return operator_node("If Then", [condition, number_node(1.0), number_node(0.0)])
        return operator_node(OPERATOR_TYPES[op], map(self.node, args))

    def _gate(self, gate: Gate) -> Any:
        place = self._place(gate.variable)
        left = number_node(0.0) if place is None else pointer_node(place)
        value = gate.value if place is None else gate.value / place[2]
        return operator_node("Arithmetic Comparator", [left, number_node(value)], SUBTYPES[gate.comparison])

    def _holds(self, expr: Expr) -> Any:
        match expr:
            case Apply(op, args) if op in COMPARISONS:
                return operator_node("Arithmetic Comparator", map(self.node, args), SUBTYPES[op])
            case Apply("xor" | "same", args):
                subtype = "XOR" if expr.op == "xor" else "EQUALS"
                return operator_node("Boolean Comparator", map(self.node, args), subtype)
        return operator_node("Arithmetic Comparator", [self.node(expr), number_node(0.0)], SUBTYPES["!="])

    def _event(self, happened: Happened, negated: bool) -> dict[str, Any]:
        option, reaction = [-1 if at is None else at for at in (happened.option, happened.reaction)]
        event = {"encounter": happened.encounter, "option": option, "reaction": reaction, "spool": None}
        return {"pointer_type": "Event Pointer", "script_element_type": "Pointer", "negated": negated, **event}
