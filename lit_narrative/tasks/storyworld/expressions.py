"""Expressions and conditions of a world: numbers worked out of the state, and tests of it; and their JSON.

In JSON an expression is a number, the name of a variable, or a list ``[operator, argument, …]``; a condition is an
object. ``scripts.py`` evaluates both.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

Comparison = Literal[">=", "<=", ">", "<", "==", "!="]
COMPARISONS: frozenset[str] = frozenset(get_args(Comparison))
LARGEST = 1e9
"""Largest magnitude of any number in a world, so that no play overflows."""
TOLERANCE = 1e-9
"""Slack of comparisons, so that 0.3 − 0.1 ≥ 0.2 holds as a reader of the file expects."""
DEEPEST = 24
"""Deepest nesting of an expression or condition: any that is read can be written in any format and read again."""
MOST_NODES = 10_000
"""Most parts of one expression or condition, so that compiling it has a bounded cost."""
OPERATORS: Mapping[str, tuple[int, int | None]] = {
    **dict.fromkeys(("neg", "abs"), (1, 1)),
    **dict.fromkeys(("nudge", "near", "distance", *get_args(Comparison)), (2, 2)),
    **dict.fromkeys(("clamp", "blend", "if"), (3, 3)),
    **dict.fromkeys(("+", "-", "*", "mean", "min", "max", "bounded_sum"), (1, None)),
    **dict.fromkeys(("xor", "same"), (2, None)),
}
"""Fewest and most arguments of each operator; ``scripts.py`` says what each is."""
_LOGICAL = frozenset(("xor", "same"))
_NUMBER = frozenset((int, float))
_NESTING = frozenset(("any", "all", "not", "expr"))


@dataclass(frozen=True, slots=True)
class Apply:
    """An operator with its arguments, those expressions but for the conditions of ``if``, ``xor`` and ``same``."""

    op: str
    args: tuple["Expr | Condition", ...]


Expr = float | str | Apply
"""A number, the value of the variable of that name, or an operator with its arguments."""


@dataclass(frozen=True, slots=True)
class Gate:
    """A condition on one variable; ``extra`` keeps the keys of the file that the format does not name."""

    variable: str
    comparison: Comparison
    value: float
    extra: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one part holds; without parts it never does."""

    parts: tuple["Condition", ...]


@dataclass(frozen=True, slots=True)
class AllOf:
    """Every part holds; without parts it always does."""

    parts: tuple["Condition", ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The part does not hold."""

    part: "Condition"


@dataclass(frozen=True, slots=True)
class Holds:
    """The expression is not 0; a comparison, ``xor`` or ``same`` is 1 or 0."""

    expr: Expr


@dataclass(frozen=True, slots=True)
class Happened:
    """An encounter was met earlier in the play, and there the option taken, and its reaction followed.

    Attributes:
        encounter: id of the encounter.
        option: position of the option in it; ``None`` for any.
        reaction: position of the reaction in the option; ``None`` for any.
    """

    encounter: str
    option: int | None = None
    reaction: int | None = None


Condition = Gate | AnyOf | AllOf | Not | Holds | Happened
Node = Expr | Condition
ALWAYS, NEVER = AllOf(()), AnyOf(())


def children(node: Node) -> tuple[Node, ...]:
    """The parts of an expression or condition, one level down."""
    match node:
        case Apply():
            return node.args
        case AnyOf() | AllOf():
            return node.parts
        case Not():
            return (node.part,)
        case Holds():
            return (node.expr,)
    return ()


def nodes(*roots: Node) -> Iterator[Node]:
    """Every part of expressions and conditions, they themselves among them."""
    pending = list(reversed(roots))
    while pending:
        node = pending.pop()
        yield node
        pending += reversed(children(node))


def variables_read(*roots: Node) -> Iterator[str]:
    """Names of the variables that expressions and conditions read, in order, each as often as it is read."""
    for node in nodes(*roots):
        if isinstance(node, str):
            yield node
        elif isinstance(node, Gate):
            yield node.variable


# --- to and from JSON -------------------------------------------------------------------------------------------------


def plain(number: float) -> float:
    """3 for 3.0, as people and the corpus write it."""
    return int(number) if number == int(number) else number


def node_json(node: Node) -> Any:
    """The JSON of an expression or a condition."""
    match node:
        case str():
            return node
        case Apply(op, args):
            return [op, *map(node_json, args)]
        case Gate(variable, comparison, value, extra):
            return {"variable": variable, "comparison": comparison, "value": plain(value), **(extra or {})}
        case AnyOf(parts):
            return {"any": [*map(node_json, parts)]}
        case AllOf(parts):
            return {"all": [*map(node_json, parts)]}
        case Not(part):
            return {"not": node_json(part)}
        case Holds(expr):
            return {"expr": node_json(expr)}
        case Happened(encounter, option, reaction):
            told = {"happened": encounter, "option": option, "reaction": reaction}
            return {key: value for key, value in told.items() if value is not None}
    return plain(node)


def is_number(value: Any) -> bool:
    """Whether a JSON value is a number of the format: not a boolean, not NaN, of bounded magnitude."""
    # By type(): bool is a subclass of int, and NaN fails the comparison.
    return type(value) in _NUMBER and -LARGEST <= value <= LARGEST


def read_expr(value: Any, depth: int = 0) -> Expr | None:
    """The expression that a JSON value says, ``None`` where it is too large or any part of it malformed."""
    if is_number(value):
        return float(value)
    if type(value) is str:
        return value or None
    if type(value) is not list or not value or type(value[0]) is not str or depth >= DEEPEST:
        return None
    if not depth and is_too_large(value):
        return None
    op, least_most = value[0], OPERATORS.get(value[0])
    if least_most is None or not least_most[0] <= len(value) - 1 <= (least_most[1] or MOST_NODES):
        return None
    args: list[Expr | Condition] = []
    for position, item in enumerate(value[1:]):
        read: Callable[[Any, int], Expr | Condition | None] = read_expr
        if part_kind(op, position) == "condition":
            read = read_condition
        part = read(item, depth + 1)
        if part is None:
            return None
        args.append(part)
    return Apply(op, tuple(args))


def part_kind(op: Any, position: int) -> Literal["expr", "condition"]:
    """What an operator takes at a position, from 0."""
    return "condition" if type(op) is str and (op in _LOGICAL or (op == "if" and position == 0)) else "expr"


def read_condition(value: Any, depth: int = 0) -> Condition | None:
    """The condition that a JSON value says, ``None`` where it is too large or any part of it malformed."""
    if type(value) is not dict or depth > DEEPEST:
        return None
    variable, comparison, number = value.get("variable"), value.get("comparison"), value.get("value")
    if type(variable) is str and variable and type(comparison) is str and comparison in COMPARISONS:
        if not is_number(number):
            return None
        extra = None
        if len(value) > 3:
            extra = {k: v for k, v in value.items() if k not in ("variable", "comparison", "value")}
        return Gate(variable, comparison, float(number), extra)  # type: ignore[arg-type]
    if "happened" in value:
        return _read_happened(value)
    if len(value) != 1:
        return None
    if not depth and is_too_large(value):
        return None
    ((key, inner),) = value.items()
    if key in ("any", "all"):
        return _read_parts(key, inner, depth)
    if key == "not":
        part = read_condition(inner, depth + 1)
        return None if part is None else Not(part)
    expr = read_expr(inner, depth + 1) if key == "expr" else None
    return None if expr is None else Holds(expr)


def is_too_large(value: Any) -> bool:
    """Whether a JSON value is refused as an expression or a condition for its size alone."""
    pending, count = [(value, 0)], 0
    while pending:  # no recursion: a file may be nested deeper than a validator's stack goes
        part, depth = pending.pop()
        count += 1
        inner: list[Any] = []
        if type(part) is list:
            inner, depth = part[1:], depth + 1
        elif type(part) is dict:
            for key in part.keys() & _NESTING:
                inner += part[key] if key in ("any", "all") and type(part[key]) is list else [part[key]]
        if depth > DEEPEST or count + len(pending) + len(inner) > MOST_NODES:
            return True
        pending += [(item, depth + (type(part) is dict)) for item in inner]
    return False


def _read_parts(key: str, value: Any, depth: int) -> Condition | None:
    if type(value) is not list:
        return None
    parts = [read_condition(item, depth + 1) for item in value]
    if None in parts:
        return None
    return (AnyOf if key == "any" else AllOf)(tuple(parts))  # type: ignore[arg-type]


def _read_happened(value: dict[str, Any]) -> Happened | None:
    encounter, option, reaction = value["happened"], value.get("option"), value.get("reaction")
    if type(encounter) is not str or not encounter or not value.keys() <= {"happened", "option", "reaction"}:
        return None
    if not all(is_count(value[key]) for key in ("option", "reaction") if key in value):
        return None
    return Happened(encounter, *[None if at is None else int(at) for at in (option, reaction)])


def is_count(value: Any) -> bool:
    """Whether a JSON value is a whole number of 0 or more (``2.0`` is one, as for JSON Schema)."""
    return is_number(value) and value >= 0 and value == int(value)


def describe(node: Node) -> str:
    """An expression or condition in words and signs, for people; not escaped, of any length."""
    match node:
        case str():
            return node
        case Gate(variable, comparison, value):
            return f"{variable} {comparison} {value:g}"
        case AnyOf(parts) | AllOf(parts):
            if not parts:
                return "always" if isinstance(node, AllOf) else "never"
            word = " or " if isinstance(node, AnyOf) else " and "
            return f"({word.join(map(describe, parts))})" if len(parts) > 1 else describe(parts[0])
        case Not(part):
            return f"not {describe(part)}"
        case Holds(expr):
            return describe(expr)
        case Happened(encounter):
            return f"{encounter} has been met"
        case Apply(op, (left, right)) if op in COMPARISONS:
            return f"{describe(left)} {op} {describe(right)}"
        case Apply(op, args) if op in ("+", "-", "*") and len(args) > 1:
            return f"({f' {op} '.join(map(describe, args))})"
        case Apply(op, args):
            return f"{op}({', '.join(map(describe, args))})"
    return f"{node:g}"
