"""Scripts of SweepWeave files as expressions and conditions.

A script is a tree of nodes: literals, pointers (constants, properties of characters, events) and operators. What cannot
be made sense of is neutral (a number 0, a condition that holds) and noted.
"""

from collections.abc import Mapping
from typing import Any

from lit_narrative.tasks.storyworld.expressions import (
    ALWAYS,
    LARGEST,
    NEVER,
    OPERATORS,
    AllOf,
    AnyOf,
    Apply,
    Comparison,
    Condition,
    Expr,
    Gate,
    Happened,
    Holds,
    Node,
    Not,
    is_number,
)
from lit_narrative.tasks.storyworld.formats.sweepweave.cast import Cast
from lit_narrative.tasks.storyworld.issues import Notes, Path
from lit_narrative.tasks.storyworld.scripts import check_script

NUMBERS: Mapping[str, str] = {
    "Addition": "+",
    "Sum": "+",
    "Subtraction": "-",
    "Multiplication": "*",
    "Arithmetic Mean": "mean",
    "Average": "mean",
    "Arithmetic Negation": "neg",
    "Absolute Value": "abs",
    "Absolute Difference": "distance",
    "Maximum": "max",
    "Minimum": "min",
    "Clamp": "clamp",
    "Nudge": "nudge",
    "Blend": "blend",
    "Desideratum": "near",
    "Proximity to": "near",
    "Proximity": "near",
    "Bounded Sum": "bounded_sum",
    "If Then": "if",
}
"""Operators whose value is a number, with ours; of several names of one the first is that of the editor."""
COMPARATORS: Mapping[str, Comparison] = {
    "Greater Than or Equal To": ">=",
    "Less Than or Equal To": "<=",
    "Greater Than": ">",
    "Less Than": "<",
    "Equal To": "==",
    "Not Equal To": "!=",
    "GTE": ">=",
    "LTE": "<=",
    "GT": ">",
    "LT": "<",
    "EQ": "==",
    "NEQ": "!=",
    "GreaterThan": ">",
    "LessThan": "<",
}
JOINS = frozenset(("And", "Logical And", "Or", "Logical Or", "Not", "XOR", "EQUALS"))
CONSTANTS = frozenset(("Bounded Number Constant", "Boolean Constant", "Boolean Property"))
POINTERS = frozenset(("Bounded Number Pointer", "Bounded Number Property", "Property"))
MIRRORED: Mapping[Comparison, Comparison] = {">=": "<=", "<=": ">=", ">": "<", "<": ">", "==": "==", "!=": "!="}


class Scripts:
    """Reads the scripts of one file.

    Args:
        cast: declares the variables that scripts read.
        notes: takes what is odd.

    Attributes:
        generated: whether node types were met that only the dialect of generated files has.
    """

    def __init__(self, cast: Cast, notes: Notes) -> None:
        self.cast, self.notes = cast, notes
        self.generated = False

    def conditions(self, value: Any, path: Path) -> tuple[Condition, ...]:
        """The conditions, all of which have to hold, that a script of true or false is."""
        condition = self.condition(value, path)
        return condition.parts if isinstance(condition, AllOf) else (condition,)

    def condition(self, value: Any, path: Path) -> Condition:
        """The condition that a script of true or false is."""
        condition = self._condition(value, path)
        return condition if self._fits(condition, path) else ALWAYS

    def expr(self, value: Any, path: Path) -> Expr:
        """The expression that a script of a number is."""
        expr = self._expr(value, path)
        return expr if self._fits(expr, path) else 0.0

    def _fits(self, node: Node, path: Path) -> bool:
        try:
            check_script(node)
        except ValueError as error:
            self.notes.add("bounds", path, f"{error}; it is left out", repair="split it up")
            return False
        return True

    def _expr(self, value: Any, path: Path) -> Expr:
        if isinstance(value, bool):
            return float(value)
        if is_number(value):
            return float(value)
        if not isinstance(value, dict):
            self.notes.add("node", path, f"a script must be a node, not {type(value).__name__}; it counts as 0")
            return 0.0
        kind, op = _kinds(value)
        if op is not None:
            return self._operator(op, value, path)
        if kind in POINTERS:
            return self._pointer(value, path)
        if kind in CONSTANTS:
            number = value.get("value", value.get("coefficient"))
            if isinstance(number, int | float) and -LARGEST <= number <= LARGEST:
                return float(number)
            self.notes.add(
                "constant", path, "a constant needs a number of at most 1e9; it counts as 0", repair="write 0"
            )
            return 0.0
        if kind == "Event Pointer":
            return Apply("if", (self._condition(value, path), 1.0, 0.0))
        self.notes.add(f"pointer {kind}", path, f"unknown pointer type {str(kind)[:80]!r}; it counts as 0")
        return 0.0

    def _pointer(self, value: dict[str, Any], path: Path) -> Expr:
        self.generated |= value["pointer_type"] == "Bounded Number Property"
        name = self.variable(value, path)
        if name is None:
            return 0.0
        coefficient = value.get("coefficient", 1)
        if not is_number(coefficient):
            self.notes.add("coefficient", (*path, "coefficient"), "the coefficient is no number", repair="write 1")
            return name
        return name if coefficient == 1 else Apply("*", (float(coefficient), name))

    def variable(self, value: dict[str, Any], path: Path) -> str | None:
        """The variable that a pointer names, whatever its coefficient."""
        character = value.get("character", value.get("character_id"))
        return self.cast.variable(character, value.get("keyring", value.get("property_name")), path)

    def _operands(self, value: dict[str, Any], path: Path) -> list[Any]:
        operands = value.get("operands", [])
        if isinstance(operands, list):
            return operands
        self.notes.add("operands", path, "operands must be a list", repair="write `[]`")
        return []

    def _operator(self, op: str, value: dict[str, Any], path: Path) -> Expr:
        self.generated |= value.get("script_element_type") == "Bounded Number Operator"
        if op in JOINS or op in COMPARATORS or op in ("Arithmetic Comparator", "Boolean Comparator"):
            condition = self._condition(value, path)
            # A comparison is an expression of its own: 1 or 0.
            return condition.expr if isinstance(condition, Holds) else Apply("if", (condition, 1.0, 0.0))
        ours, operands = NUMBERS.get(op), self._operands(value, path)
        if ours is None:
            self.notes.add(f"operator {op}", path, f"unknown operator {op[:80]!r}; it counts as 0")
            return 0.0
        if not operands and ours in ("+", "*"):
            return float(ours == "*")
        least, most = OPERATORS[ours]
        if len(operands) < least:
            self.notes.add("operands", path, f"{op} takes {least} operands, not {len(operands)}; it counts as 0")
            return 0.0
        if most is not None and len(operands) > most:
            message = f"{op} takes {most} operands, not {len(operands)}; the first {most} count"
            self.notes.add("too many operands", path, message, repair="remove the others")
            operands = operands[:most]
        places = [(*path, "operands", i) for i in range(len(operands))]
        if ours == "if":
            condition = self._condition(operands[0], places[0])
            return Apply("if", (condition, self._expr(operands[1], places[1]), self._expr(operands[2], places[2])))
        return Apply(ours, tuple([self._expr(one, place) for one, place in zip(operands, places, strict=True)]))

    def _condition(self, value: Any, path: Path) -> Condition:
        if isinstance(value, bool):
            return ALWAYS if value else NEVER
        if value is None:
            return ALWAYS
        if not isinstance(value, dict):
            if is_number(value):
                return ALWAYS if value else NEVER
            self.notes.add("node", path, f"a script must be a node, not {type(value).__name__}; it counts as true")
            return ALWAYS
        kind, op = _kinds(value)
        if kind == "Boolean Constant" and isinstance(value.get("value"), bool):
            return ALWAYS if value["value"] else NEVER
        if kind == "Event Pointer":
            return self._event(value, path)
        if op in COMPARATORS or op == "Arithmetic Comparator":
            return self._comparison(value, path)
        if op in JOINS or op == "Boolean Comparator":
            return self._joined(value, path)
        if kind not in POINTERS | CONSTANTS if op is None else op not in NUMBERS:
            what = f"unknown {'pointer type' if op is None else 'operator'} {str(op or kind)[:80]!r}"
            self.notes.add(what, path, f"{what}; it counts as true")
            return ALWAYS
        expr = self._expr(value, path)
        return (ALWAYS if expr else NEVER) if isinstance(expr, float) else Holds(expr)

    def _event(self, value: dict[str, Any], path: Path) -> Condition:
        encounter = value.get("encounter")
        if not isinstance(encounter, str) or not encounter:
            self.notes.add("event", path, "an event needs an encounter; it counts as true")
            return ALWAYS
        # The editor writes -1 for "any".
        places = [at if type(at) is int and at >= 0 else None for at in (value.get("option"), value.get("reaction"))]
        happened = Happened(encounter, *places)
        return Not(happened) if value.get("negated") is True else happened

    def _comparison(self, value: dict[str, Any], path: Path) -> Condition:
        named = value["operator_type"] if value["operator_type"] in COMPARATORS else value.get("operator_subtype")
        comparison, operands = COMPARATORS.get(str(named)), self._operands(value, path)
        if comparison is None or len(operands) != 2:
            what = f"unknown comparison {str(named)[:80]!r}" if comparison is None else "a comparison takes 2 operands"
            self.notes.add("comparison", path, f"{what}; it counts as false")
            return NEVER
        left, right = [self._expr(one, (*path, "operands", i)) for i, one in enumerate(operands)]
        if isinstance(left, float) and not isinstance(right, float):
            left, right, comparison = right, left, MIRRORED[comparison]
        return _gate(left, comparison, right) or Holds(Apply(comparison, (left, right)))

    def _joined(self, value: dict[str, Any], path: Path) -> Condition:
        op = value["operator_type"]
        kind = str(value.get("operator_subtype", "")) if op == "Boolean Comparator" else op
        parts = tuple(
            [self._condition(one, (*path, "operands", i)) for i, one in enumerate(self._operands(value, path))]
        )
        match kind.removeprefix("Logical ").upper():
            case "AND":
                return parts[0] if len(parts) == 1 else AllOf(parts)
            case "OR":
                return parts[0] if len(parts) == 1 else AnyOf(parts)
            case "NOT" if len(parts) == 1:
                return Not(parts[0])
            case "XOR" if len(parts) > 1:
                return Holds(Apply("xor", parts))
            case "EQUALS" if len(parts) > 1:
                return Holds(Apply("same", parts))
        self.notes.add("join", path, f"{kind[:80]!r} of {len(parts)} conditions has no meaning; it counts as true")
        return ALWAYS


def _kinds(node: dict[str, Any]) -> tuple[str | None, str | None]:
    """What kind of pointer a node is, and what operator; ``None`` where it does not say so in words."""
    kind, op = node.get("pointer_type"), node.get("operator_type")
    return kind if isinstance(kind, str) else None, op if isinstance(op, str) else None


def _gate(left: Expr, comparison: Comparison, right: Expr) -> Gate | None:
    """A comparison of one variable with a number, where it is one; a coefficient goes into the number."""
    if not isinstance(right, float):
        return None
    match left:
        case str():
            return Gate(left, comparison, right)
        case Apply("*", (float() as factor, str() as name)) if abs(factor) > 1e-6 and abs(right / factor) <= 1e6:
            return Gate(name, comparison if factor > 0 else MIRRORED[comparison], right / factor)
    return None
