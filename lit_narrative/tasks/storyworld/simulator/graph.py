"""The graph of a world: which encounters can follow from the first, and which of them are endings.

Gates are left out: an encounter behind a gate that never opens is reachable here. What plays really meet is in
``statistics.py``. Worlds that need an engine have an *outline*: a plan in which each way that an option may lead is a
choice of its own, and selection is one more scene, behind the last, with a choice for each encounter that it may take.
"""

from collections.abc import Iterator

from lit_narrative.tasks.storyworld.checks import Fault, reaching
from lit_narrative.tasks.storyworld.expressions import variables_read
from lit_narrative.tasks.storyworld.simulator.engine import SELECTION, Engine
from lit_narrative.tasks.storyworld.simulator.engine_scripts import alternatives
from lit_narrative.tasks.storyworld.simulator.plan import END, IMPLICIT, Choice, Plan, make_plan
from lit_narrative.tasks.storyworld.world import Effect, Encounter, Option, World, is_plain

_GATED = ((0, 0.0, 0.0, False),)
"""Stands in an outline for the gates of an option, which only the engine evaluates."""


def outline(game: World | Engine) -> Plan:
    """The graph of any world as a plan; that of a plain one is its plan."""
    world = game.world if isinstance(game, Engine) else game
    if is_plain(world):
        return make_plan(world)
    engine = game if isinstance(game, Engine) else Engine(game)
    scenes = [_scene(engine, i, encounter) for i, encounter in enumerate(engine.world.encounters)]
    if engine.selects:
        allowed = [i for i in engine.positions.values() if _may_be_selected(engine.world.encounters[i])]
        scenes.append(tuple([Choice((), (), target, None) for target in (*allowed, IMPLICIT)]))
    start = (*engine.start[: len(engine.names)], 0.0)
    return Plan(engine.world, engine.names, start, tuple(scenes), max(engine.begin().index, 0))


def _scene(engine: Engine, index: int, encounter: Encounter) -> tuple[Choice, ...]:
    choices = []
    for option, ways in zip(encounter.options, engine.ways[index], strict=True):
        tests = _GATED if option.gates or option.performable else ()
        for way in ways:
            # The size of a change is not known before a play; that there is one is.
            changes = tuple([(place, 1.0, 0.0, 0.0) for place in way.changed])
            target = len(engine.ways) if way.target == SELECTION else way.target
            choices.append(Choice(tests, changes, target, way.reaction))
    return tuple(choices)


def _may_be_selected(encounter: Encounter) -> bool:
    return not 0 < encounter.turns[1] < encounter.turns[0]


def reachable(plan: Plan) -> frozenset[int]:
    """Positions of the encounters that options lead to from the first one, which is among them; and of selection."""
    positions = {plan.first} if plan.scenes else set()
    pending = list(positions)
    while pending:
        for choice in plan.scenes[pending.pop()]:
            if choice.target >= 0 and choice.target not in positions:
                positions.add(choice.target)
                pending.append(choice.target)
    return frozenset(positions)


def viable(plan: Plan, positions: frozenset[int]) -> frozenset[int]:
    """Those of the reachable ``positions`` from which an ending can be reached."""
    found: set[int] = set()
    # Most stories lead forward, so that one look from the last encounter to the first settles all of them.
    for i in sorted(positions, reverse=True):
        scene = plan.scenes[i]
        if not scene or any([choice.target == END or choice.target in found for choice in scene]):
            found.add(i)
    if len(found) == len(positions):
        return positions
    sources: dict[int, list[int]] = {i: [] for i in positions}
    for i in positions:
        for choice in plan.scenes[i]:
            if choice.target >= 0:
                sources[choice.target].append(i)
    return frozenset(reaching(found, sources))


def offered(plan: Plan, index: int) -> list[tuple[Option, Choice]]:
    """The options of an encounter, each with where it leads; in an outline once for each way that it may lead."""
    options, choices = plan.world.encounters[index].options, plan.scenes[index]
    if not is_plain(plan.world):
        options = tuple([option for option in options for _ in alternatives(option)])
    return list(zip(options, choices, strict=True))


def encounters_only(plan: Plan, positions: frozenset[int]) -> frozenset[int]:
    """The positions without that of selection."""
    return positions - {len(plan.world.encounters)} if len(plan.scenes) > len(plan.world.encounters) else positions


def is_terminal(plan: Plan, index: int) -> bool:
    """Whether an encounter is an ending: it has no options, or each of them says that the story ends.

    An option that says nothing of what follows, or names an encounter that does not exist, is a dead end and does not
    make an ending.
    """
    # A list, not a generator, here and below: of a handful of options it is faster, and this runs on every text.
    return all([choice.target == END for choice in plan.scenes[index]])


def can_end(plan: Plan, index: int) -> bool:
    """Whether a play may end well at an encounter: it has no options, or at least one that ends the story."""
    scene = plan.scenes[index]
    return not scene or any([choice.target == END for choice in scene])


def lint_warnings(plan: Plan) -> Iterator[Fault]:
    """Encounters that nothing leads to, a story without an end, variables without a use."""
    positions = reachable(plan)
    for i, encounter in enumerate(plan.world.encounters):
        if i not in positions:
            yield Fault(("encounters", i), f"no option leads to encounter {encounter.id[:80]!r}")
    if plan.scenes and not any([can_end(plan, i) for i in positions]):
        yield Fault(("encounters",), "no ending can be reached")
    used = _used(plan)
    for name in plan.names:
        if name not in used:
            yield Fault(("initial_state", name), f"variable {name[:80]!r} is neither read by a gate nor changed")


def _used(plan: Plan) -> set[str]:
    """Variables that a script reads or an effect changes by more than nothing."""
    names: set[str] = set()
    for encounter in plan.world.encounters:
        if encounter.acceptability or encounter.desirability != 0:
            names.update(variables_read(*encounter.acceptability, encounter.desirability))
        for option in encounter.options:
            names.update(variables_read(*option.gates, *option.performable))
            for reaction in option.reactions:
                if reaction.desirability != 0:
                    names.update(variables_read(reaction.desirability))
                for effect in reaction.effects:
                    if isinstance(effect, Effect) and (effect.change or effect.value is not None):
                        names.add(effect.variable)
                        names.update(variables_read(effect.value) if effect.value is not None else ())
    return names
