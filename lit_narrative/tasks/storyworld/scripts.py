"""Scripts: expressions and conditions of a world as functions of the state.

Each is translated to one Python expression, made of slots of the state, numbers and the operators below and of nothing
that a file says, and compiled once; plays then call it thousands of times.

The numbers are those of the SweepWeave engine: variables lie in −1 to 1, and so do the values of ``nudge``, ``blend``
and ``bounded_sum`` of such variables. The value of a whole script is cut to ±``LARGEST``; what is no number is 0.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

from lit_narrative.errors import check_choice
from lit_narrative.tasks.storyworld.expressions import (
    COMPARISONS,
    DEEPEST,
    LARGEST,
    MOST_NODES,
    OPERATORS,
    TOLERANCE,
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
    children,
)

Nudge = Literal["asymptotic", "additive"]
"""``x(1 − |w|) + w``, which stays in −1 to 1 and is what the engine does; or ``x + w`` cut to −1 to 1, which the
authors of some worlds had in mind. The choice changes which endings are met."""
NUDGES: tuple[Nudge, ...] = get_args(Nudge)
Slot = str | Happened
"""What a place in the state holds: the value of a variable, or 1 once something has happened."""
Number = Callable[[Sequence[float]], float]
Test = Callable[[Sequence[float]], bool]
_INLINE = 8
"""Most operands of a sum or product that are written out: longer ones would nest the compiler deep."""


def compile_expr(expr: Expr, slots: Mapping[Slot, int], nudge: Nudge = "asymptotic") -> Number:
    """The function from a state to the value of an expression.

    Args:
        expr: the expression.
        slots: the place in the state of each variable and of each ``Happened``; what has none reads 0.
        nudge: what ``nudge`` means.

    Raises:
        ValueError: It is nested deeper than ``DEEPEST`` or has more than ``MOST_NODES`` parts; readers refuse such;
            or it has an operator that is not in ``OPERATORS``.
    """
    # The walrus names the value without a call; NaN fails the comparison.
    return _compiled(f"v if {-LARGEST} <= (v := {source(expr, slots, nudge)}) <= {LARGEST} else cut(v)")  # type: ignore[return-value]


def compile_condition(condition: Condition, slots: Mapping[Slot, int], nudge: Nudge = "asymptotic") -> Test:
    """The function from a state to whether a condition holds; arguments and errors of `compile_expr`."""
    return _compiled(source(condition, slots, nudge))  # type: ignore[return-value]


def compile_all(conditions: Sequence[Condition], slots: Mapping[Slot, int], nudge: Nudge = "asymptotic") -> Test:
    """The function from a state to whether every one of the conditions holds."""
    return compile_condition(AllOf(tuple(conditions)), slots, nudge)


def source(node: Node, slots: Mapping[Slot, int], nudge: Nudge = "asymptotic") -> str:
    """The Python expression of an expression or condition over the state ``s`` and the names in :data:`NAMES`.

    It holds numbers, slots and operators only, so that evaluating it is safe whatever file the node was read from.
    """
    check_choice("nudge", nudge, NUDGES)
    check_script(node)
    return _source(node, slots, nudge)


def check_script(node: Node) -> None:
    """Refuse what is too deep, too large or unknown.

    Raises:
        ValueError: Deeper than ``DEEPEST`` + 1 levels, more than ``MOST_NODES`` parts, or an unknown operator.
    """
    level, count = [node], 1
    for _ in range(DEEPEST + 2):
        # An operator's name is written into the source: one that is not ours may be any text.
        if unknown := [one.op for one in level if isinstance(one, Apply) and one.op not in OPERATORS]:
            raise ValueError(f"there is no operator {unknown[0][:80]!r}")
        level = [part for one in level for part in children(one)]
        count += len(level)
        if not level:
            return
        if count > MOST_NODES:
            raise ValueError(f"a script has more than {MOST_NODES:,} parts")
    raise ValueError(f"a script is nested deeper than {DEEPEST} levels")


def _source(node: Node, slots: Mapping[Slot, int], nudge: Nudge) -> str:
    match node:
        case str():
            return f"s[{slots[node]}]" if node in slots else "0.0"
        case Apply(op, args):
            return _applied(op, [_source(arg, slots, nudge) for arg in args], nudge)
        case Gate(variable, comparison, value):
            return _gate(_source(variable, slots, nudge), comparison, value)
        case AnyOf(parts):
            return f"({' or '.join([_source(part, slots, nudge) for part in parts])})" if parts else "False"
        case AllOf(parts):
            return f"({' and '.join([_source(part, slots, nudge) for part in parts])})" if parts else "True"
        case Not(part):
            return f"(not {_source(part, slots, nudge)})"
        case Holds(Apply(op, (left, right))) if op in COMPARISONS:
            return _compared(op, _source(left, slots, nudge), _source(right, slots, nudge))
        case Holds(expr):
            return f"({_source(expr, slots, nudge)} != 0.0)"
        case Happened():
            return f"(s[{slots[node]}] > 0.0)" if node in slots else "False"
    return repr(float(node))


def _gate(variable: str, comparison: str, value: float) -> str:
    # The bounds of `simulator/plan.py` to the last bit, so that both play alike.
    low, high = value - TOLERANCE, value + TOLERANCE
    match comparison:
        case ">=" | "<":
            return f"({variable} {comparison} {low!r})"
        case "<=" | ">":
            return f"({variable} {comparison} {high!r})"
        case "==":
            return f"({low!r} <= {variable} <= {high!r})"
    return f"(not {low!r} <= {variable} <= {high!r})"


def _compared(comparison: str, left: str, right: str) -> str:
    if comparison in ("==", "!="):
        return f"(abs({left} - {right}) {'<=' if comparison == '==' else '>'} {TOLERANCE})"
    # > is the negation of <=, slack included: a value within the tolerance is equal, hence not greater.
    sign = "-" if comparison in (">=", "<") else "+"
    return f"({left} {comparison} {right} {sign} {TOLERANCE})"


def _applied(op: str, args: list[str], nudge: Nudge) -> str:
    """The value of an operator, with the sources of its arguments."""
    listed = ", ".join(args)
    if op in COMPARISONS:
        return f"(1.0 if {_compared(op, *args)} else 0.0)"
    match op:
        case "+" | "*" if len(args) <= _INLINE:
            return f"({f' {op} '.join(args)})"
        case "+":
            return f"sum(({listed},))"
        case "*":
            return f"prod(({listed},))"
        case "-":
            rest = f" - {_applied('+', args[1:], nudge)}" if len(args) > 1 else ""
            return f"({args[0]}{rest})"
        case "mean":
            return f"({_applied('+', args, nudge)} / {len(args)})"
        case "neg":
            return f"(-{args[0]})"
        case "abs":
            return f"abs({listed})"
        case "min" | "max":
            return f"{op}(({listed},))"
        case "if":
            return f"({args[1]} if {args[0]} else {args[2]})"
        case "xor":
            return f"float(({' + '.join(args)}) % 2)" if len(args) <= _INLINE else f"float(sum(({listed},)) % 2)"
        case "same":
            return f"float(len({{{listed}}}) == 1)"
        case "nudge" if nudge == "additive":
            return f"add({listed})"
    return f"{op}({listed})"


# --- what the operators are -------------------------------------------------------------------------------------------


def clamp(x: float, low: float, high: float) -> float:
    """``x`` cut to ``low`` and ``high``; ``high`` wins where they are the wrong way round."""
    return min(max(x, low), high)


def asymptotic_nudge(x: float, w: float) -> float:
    """``x(1 − |w|) + w``: moves ``x`` the share ``|w|`` of the way to 1 or −1, whichever sign ``w`` has."""
    return x * (1.0 - abs(w)) + w


def additive_nudge(x: float, w: float) -> float:
    """``x + w`` cut to −1 to 1."""
    return min(max(x + w, -1.0), 1.0)


def blend(a: float, b: float, w: float) -> float:
    """Between ``a`` (where ``w`` is −1) and ``b`` (where it is 1)."""
    t = (w + 1.0) / 2.0
    return a * (1.0 - t) + b * t


def near(a: float, b: float) -> float:
    """0.99 less the distance, cut to ±0.99 (the engine's Desideratum and Proximity to)."""
    return min(max(0.99 - abs(a - b), -0.99), 0.99)


def bounded_sum(*numbers: float) -> float:
    """The sum of numbers in −1 to 1 mapped to the whole line, mapped back."""
    total = 0.0
    for x in numbers:
        # At ±1 the line has no end: what lies beyond ±0.999999 counts as that.
        x = min(max(x, -0.999999), 0.999999)
        total += 1.0 / (1.0 - x) - 1.0 if x > 0 else 1.0 - 1.0 / (1.0 + x)
    return 1.0 - 1.0 / (total + 1.0) if total > 0 else -1.0 - 1.0 / (total - 1.0)


def cut(x: float) -> float:
    """``x`` cut to ±``LARGEST``; 0 where it is not a number."""
    return 0.0 if math.isnan(x) else min(max(x, -LARGEST), LARGEST)


NAMES: dict[str, object] = {
    "__builtins__": {},
    **{
        function.__name__: function
        for function in (abs, sum, min, max, len, float, clamp, blend, near, bounded_sum, cut)
    },
    "prod": math.prod,
    "distance": lambda a, b: abs(a - b),
    "nudge": asymptotic_nudge,
    "add": additive_nudge,
}
"""What the source of a script may name besides the state ``s``."""


def _compiled(text: str) -> Callable[[Sequence[float]], object]:
    function: Callable[[Sequence[float]], object] = eval(f"lambda s: {text}", NAMES)  # see `source`
    return function
