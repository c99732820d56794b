"""What the page's script needs to play a world as the engine does: scripts as lists, and what selection looks at."""

import math
from typing import Any

from lit_narrative.tasks.storyworld.expressions import (
    COMPARISONS,
    AllOf,
    AnyOf,
    Apply,
    Gate,
    Happened,
    Holds,
    Node,
    Not,
)
from lit_narrative.tasks.storyworld.simulator.engine import Engine, Way
from lit_narrative.tasks.storyworld.simulator.engine_scripts import alternatives
from lit_narrative.tasks.storyworld.world import UNBOUNDED, Option, Reaction, SpoolEffect


def script_json(node: Node, engine: Engine) -> Any:
    """A script as ``player.js`` evaluates it: a number, ``["s", place]``, or a list of an operator and its parts.

    Whether a part is a number or a truth value is clear from where it stands; a truth value as a number is 1 or 0.
    """
    places = engine.slots.places

    def told(part: Node) -> Any:
        match part:
            case str() | Happened():
                return ["s", places[part]] if part in places else 0
            case Apply(op, args):
                name = "add" if op == "nudge" and engine.nudge == "additive" else op
                return [f"e{name}" if op in COMPARISONS else name, *map(told, args)]
            case Gate(variable, comparison, value):
                return [comparison, told(variable), value]
            case AnyOf(parts):
                return ["any", *map(told, parts)]
            case AllOf(parts):
                return ["all", *map(told, parts)]
            case Not(part):
                return ["not", told(part)]
            case Holds(expr):
                return ["holds", told(expr)]
        return part

    return told(node)


def ways_json(option: Option, ways: tuple[Way, ...], engine: Engine) -> list[dict[str, Any]]:
    """What may follow an option: how much it is wanted, what it changes, and where it leads; without its texts."""
    found = []
    for (first, last), way in zip(alternatives(option), ways, strict=True):
        walked = option.reactions[first : last + 1]
        wanted = walked[-1].desirability if walked and len(ways) > 1 else 0.0
        found.append(
            {
                "wanted": script_json(wanted, engine),
                "changes": [change for reaction in walked for change in _changes(reaction, engine)],
                "events": list(way.events),
                "target": way.target,
            }
        )
    return found


def _changes(reaction: Reaction, engine: Engine) -> list[list[Any]]:
    """[operator, place, script, minimum, maximum] of each effect; of a spool the bounds are missing."""
    slots, found = engine.slots, []
    for effect in reaction.effects:
        if isinstance(effect, SpoolEffect):
            active = float(effect.active) if isinstance(effect.active, bool) else script_json(effect.active, engine)
            found.append(["spool", slots.spools[effect.spool], active])
        elif effect.variable in slots.bounds:
            by = effect.change if effect.value is None else effect.value
            op = "push" if effect.op == "nudge" and engine.nudge == "additive" else effect.op
            bounds = map(finite, slots.bounds.get(effect.variable, UNBOUNDED))
            found.append([op, slots.places[effect.variable], script_json(by, engine), *bounds])
    return found


def pool_json(engine: Engine) -> list[list[Any]]:
    """[encounter, first turn, last turn, places of spools, acceptability, desirability] of each candidate."""
    if not engine.selects:
        return []
    found = []
    for one in engine.candidates:
        encounter = engine.world.encounters[one.index]
        accepted = script_json(AllOf(encounter.acceptability), engine)
        wanted = script_json(encounter.desirability, engine)
        found.append([one.index, one.first, finite(one.last), list(one.spools), accepted, wanted])
    return found


def finite(bound: float) -> float | None:
    """The number, ``None`` where it is infinite, which JSON has no word for."""
    return bound if math.isfinite(bound) else None
