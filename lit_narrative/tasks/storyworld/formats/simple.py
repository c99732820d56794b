"""The reader of the simple format: lenient, dropping what is malformed and counting it.

``schema_simple_plus.json`` of the task states the same format for other tools. The two agree: `read_world`
reports "malformed" for exactly the values that the schema refuses, and for scripts nested too deep.
"""

import math
from collections import Counter
from collections.abc import Container, Mapping
from typing import Any, get_args

from lit_narrative.tasks.storyworld.expressions import (
    COMPARISONS,
    Condition,
    Expr,
    Gate,
    is_count,
    is_number,
    read_condition,
    read_expr,
)
from lit_narrative.tasks.storyworld.world import (
    Effect,
    EffectOp,
    Encounter,
    Extra,
    Option,
    Reaction,
    SpoolEffect,
    Variable,
    World,
    variable_bounds,
)

TOP_KEYS = ("characters", "initial_state", "properties", "encounters")
_PARTS = frozenset(TOP_KEYS)
_BOUNDS = frozenset(("min", "max"))
_MORE_KEYS = ("title", "start", "spools")
_ENCOUNTER_KEYS = frozenset(("id", "text", "options", "title", "spools", "acceptability", "desirability", "turns"))
_OPTION_KEYS = frozenset(("id", "text", "gates", "performable", "reactions"))
_PLAIN_REACTION = frozenset(("text", "after_effects", "next_encounter"))
_REACTION_KEYS = _PLAIN_REACTION | {"desirability"}
_EFFECT_KEYS = frozenset(("variable", "change"))
_EFFECT_OPS = frozenset(get_args(EffectOp))
_SCRIPTED_KEYS = frozenset(("variable", "op", "value"))
_SPOOL_KEYS = frozenset(("spool", "active"))
KNOWN_KEYS = frozenset((*TOP_KEYS, *_MORE_KEYS)).union(
    _ENCOUNTER_KEYS, _OPTION_KEYS, _REACTION_KEYS, _EFFECT_KEYS, _SCRIPTED_KEYS, _SPOOL_KEYS
)
"""Every key that the format names, in any part; other keys are kept."""


def read_world(value: Any) -> tuple[World | None, bool]:
    """Read a parsed JSON value, dropping what is malformed; never raises.

    Args:
        value: any value that ``json.loads`` can return.

    Returns:
        The world, ``None`` where the value is not an object; and whether anything was malformed.
    """
    world, malformed = read_counting(value)
    return world, bool(malformed)


def read_counting(value: Any) -> tuple[World | None, Counter[str]]:
    """As `read_world`, with the number of malformed parts by kind.

    Kinds: ``keys`` (top level), ``characters``, ``initial_state``, ``properties`` (their entries), ``encounters``,
    ``options``, ``gates`` (conditions of any kind), ``reactions``, ``effects``, ``more`` (the optional top-level keys).
    """
    bad: Counter[str] = Counter()
    if type(value) is not dict:
        bad["keys"] += 1
        return None, bad
    parts: dict[str, Any] = {}
    for key in TOP_KEYS:
        kind = list if key == "encounters" else dict
        part = value.get(key)
        parts[key] = part if type(part) is kind else kind()
        if type(part) is not kind or (kind is list and not part):
            bad["keys"] += 1
    characters = _characters(parts["characters"], bad)
    properties = _properties(parts["properties"], bad)
    variables = _variables(parts["initial_state"], characters, properties, bad)
    encounters = tuple(e for e in [_encounter(e, bad) for e in parts["encounters"]] if e is not None)
    kept = {name: rest for name in properties if (rest := _extra(parts["properties"][name], _BOUNDS)) is not None}
    if not kept and value.keys() <= _PARTS:
        return World(characters, variables, encounters, properties), bad
    more = {key: inner for key, inner in value.items() if key not in _PARTS and key not in _MORE_KEYS}
    return World(characters, variables, encounters, properties, *_more(value, bad), kept, more), bad


def _more(value: dict[str, Any], bad: Counter[str]) -> tuple[str, str | None, dict[str, bool]]:
    """The optional keys of the top level: title, start, spools."""
    title, start, spools = value.get("title", ""), value.get("start"), value.get("spools", {})
    if type(title) is not str:
        bad["more"] += 1
        title = ""
    if ("start" in value and type(start) is not str) or start == "":
        bad["more"] += 1
        start = None
    if type(spools) is not dict or not all([type(active) is bool for active in spools.values()]):
        bad["more"] += 1
        spools = {}
    return title, start, spools


def _characters(value: dict[str, Any], bad: Counter[str]) -> dict[str, dict[str, float]]:
    characters = {}
    for name, values in value.items():
        if type(values) is not dict:
            bad["characters"] += 1
            continue
        numbers = {key: number for key, number in values.items() if is_number(number)}
        if len(numbers) != len(values):
            bad["characters"] += 1
        characters[name] = numbers
    return characters


def _properties(value: dict[str, Any], bad: Counter[str]) -> dict[str, tuple[float, float]]:
    properties = {}
    for name, bounds in value.items():
        if type(bounds) is not dict:
            bad["properties"] += 1
            continue
        low, high = bounds.get("min", -math.inf), bounds.get("max", math.inf)
        if ("min" in bounds and not is_number(low)) or ("max" in bounds and not is_number(high)):
            bad["properties"] += 1
            continue
        properties[name] = (float(low), float(high))
    return properties


def _variables(
    value: dict[str, Any], characters: Container[str], properties: dict[str, tuple[float, float]], bad: Counter[str]
) -> dict[str, Variable]:
    variables = {}
    for name, initial in value.items():
        if is_number(initial):
            variables[name] = Variable(float(initial), *variable_bounds(name, characters, properties))
        else:
            bad["initial_state"] += 1
    return variables


def _encounter(value: Any, bad: Counter[str]) -> Encounter | None:
    """An encounter, or ``None`` where it has no id, or where no option of it can be read."""
    if type(value) is not dict:
        bad["encounters"] += 1
        return None
    name, text, options = value.get("id"), value.get("text"), value.get("options")
    if type(name) is not str or not name or type(options) is not list:
        bad["encounters"] += 1
        return None
    if type(text) is not str:
        bad["encounters"] += 1
        text = ""
    read = tuple([o for o in [_option(o, bad) for o in options] if o is not None])
    if options and not read:
        return None  # without its options it would pass for an ending
    if len(value) == 3 and "text" in value:  # by far the commonest: the rest need not be looked for
        return Encounter(name, text, read)
    title, spools, turns = value.get("title", ""), value.get("spools", []), value.get("turns", (0, 0))
    if type(title) is not str:
        bad["encounters"] += 1
        title = ""
    if type(spools) is not list or not all([type(spool) is str and spool for spool in spools]):
        bad["encounters"] += 1
        spools = []
    if "turns" in value and not (type(turns) is list and len(turns) == 2 and all(map(is_count, turns))):
        bad["encounters"] += 1
        turns = (0, 0)
    acceptability, desirability = _conditions(value, "acceptability", bad), _desirability(value, "encounters", bad)
    rest = _extra(value, _ENCOUNTER_KEYS)
    first, last = int(turns[0]), int(turns[1])
    return Encounter(name, text, read, title, tuple(spools), acceptability, desirability, (first, last), rest)


def _extra(value: Mapping[str, Any], known: frozenset[str]) -> Extra | None:
    """The keys that the format does not name."""
    return {key: inner for key, inner in value.items() if key not in known} or None


def _desirability(value: Mapping[str, Any], kind: str, bad: Counter[str]) -> Expr:
    if "desirability" not in value:
        return 0.0
    expr = read_expr(value["desirability"])
    if expr is None:
        bad[kind] += 1
        return 0.0
    return expr


def _conditions(value: Mapping[str, Any], key: str, bad: Counter[str]) -> tuple[Condition, ...]:
    return read_conditions(value[key], bad) if key in value else ()


def _option(value: Any, bad: Counter[str]) -> Option | None:
    if type(value) is not dict:
        bad["options"] += 1
        return None
    name, text, reactions = value.get("id"), value.get("text"), value.get("reactions")
    if type(name) is not str or not name:
        bad["options"] += 1
        return None
    if type(text) is not str or type(reactions) is not list:
        bad["options"] += 1
        text = text if type(text) is str else ""
        reactions = reactions if type(reactions) is list else []
    gates = read_conditions(value["gates"], bad) if "gates" in value else ()
    followed = tuple([r for r in [_reaction(r, bad) for r in reactions] if r is not None])
    if len(value) == 3 + ("gates" in value) and "text" in value and "reactions" in value:
        return Option(name, text, gates, followed)
    performable = _conditions(value, "performable", bad)
    return Option(name, text, gates, followed, performable, _extra(value, _OPTION_KEYS))


def read_conditions(value: Any, bad: Counter[str]) -> tuple[Condition, ...]:
    """The conditions of a list, without those that are malformed, which are counted in ``bad``."""
    if type(value) is not list:
        bad["gates"] += 1
        return ()
    gates: list[Condition] = []
    for item in value:
        if type(item) is dict and len(item) == 3:
            variable, comparison, number = item.get("variable"), item.get("comparison"), item.get("value")
            if type(variable) is str and variable and _is_comparison(comparison) and is_number(number):
                gates.append(Gate(variable, comparison, float(number)))  # type: ignore[arg-type]
                continue
        condition = read_condition(item)
        if condition is None:
            bad["gates"] += 1
        else:
            gates.append(condition)
    return tuple(gates)


def _reaction(value: Any, bad: Counter[str]) -> Reaction | None:
    if type(value) is not dict:
        bad["reactions"] += 1
        return None
    # By default 0, which is no legal value: an absent key has to be told from null, which ends the story.
    following, text, effects = value.get("next_encounter", 0), value.get("text", ""), value.get("after_effects", ())
    leads = following is None or (type(following) is str and following != "")
    if (not leads and "next_encounter" in value) or type(text) is not str:
        bad["reactions"] += 1
    text = text if type(text) is str else ""
    read = read_effects(effects, bad) if effects != () else ()
    if value.keys() <= _PLAIN_REACTION:
        return Reaction(read, following if leads else None, text, leads)
    desirability, rest = _desirability(value, "reactions", bad), _extra(value, _REACTION_KEYS)
    return Reaction(read, following if leads else None, text, leads, desirability, rest)


def read_effects(value: Any, bad: Counter[str]) -> tuple[Effect | SpoolEffect, ...]:
    """The effects of a list, without those that are malformed, which are counted in ``bad``."""
    if type(value) is not list:
        bad["effects"] += 1
        return ()
    effects: list[Effect | SpoolEffect] = []
    for item in value:
        if type(item) is dict:
            variable, change = item.get("variable"), item.get("change")
            if type(variable) is str and variable and is_number(change):
                rest = None if len(item) == 2 else _extra(item, _EFFECT_KEYS)
                effects.append(Effect(variable, float(change), extra=rest))  # type: ignore[arg-type]
                continue
            if (effect := _scripted_effect(item)) is not None:
                effects.append(effect)
                continue
        bad["effects"] += 1
    return tuple(effects)


def _scripted_effect(value: dict[str, Any]) -> Effect | SpoolEffect | None:
    """An effect with a script, or one on a spool; ``None`` where it is neither."""
    variable, op, expr = value.get("variable"), value.get("op"), read_expr(value.get("value"))
    if type(variable) is str and variable and type(op) is str and op in _EFFECT_OPS and expr is not None:
        rest = _extra(value, _SCRIPTED_KEYS)
        if op == "add" and isinstance(expr, float) and "change" not in value:
            return Effect(variable, expr, extra=rest)
        return Effect(variable, 0.0, op, expr, rest)  # type: ignore[arg-type]
    spool, active = value.get("spool"), value.get("active")
    condition = active if type(active) is bool else read_condition(active)
    if type(spool) is not str or not spool or condition is None:
        return None
    return SpoolEffect(spool, condition, _extra(value, _SPOOL_KEYS))


def _is_comparison(value: Any) -> bool:
    return type(value) is str and value in COMPARISONS
