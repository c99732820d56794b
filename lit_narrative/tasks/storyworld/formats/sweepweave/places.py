"""Where the editor holds the variables of a world, and on what scale: it knows numbers in −1 to 1, of characters."""

import math
from collections.abc import Iterator

from lit_narrative.tasks.storyworld.expressions import Gate, nodes
from lit_narrative.tasks.storyworld.formats.sweepweave.cast import GLOBAL
from lit_narrative.tasks.storyworld.formats.sweepweave.script_nodes import Place
from lit_narrative.tasks.storyworld.world import Effect, Variable, World, owners

LARGEST_CONSTANT = 0.99
"""The editor cuts constants to ± this."""
HEADROOM = 1000.0
"""A variable without bounds gets room for so many times the largest number that it meets."""


def places(world: World) -> dict[str, Place]:
    """For every variable its character, keyring, and scale: its value is the editor's times the scale."""
    held: dict[str, Place] = {}
    taken: set[tuple[str, ...]] = set()
    largest = _largest(world)
    for name, variable in world.variables.items():
        character, keyring = _owner(name, world)
        if (character, *keyring) in taken:
            character, keyring = global_character(world), [name]
        taken.add((character, *keyring))
        held[name] = (character, keyring, _scale(variable, largest.get(name, 0.0)))
    return held


def global_character(world: World) -> str:
    """Id of the character that holds the variables of nobody: one that the world does not have."""
    name = GLOBAL
    while name in world.characters:
        name += "_"
    return name


def _owner(name: str, world: World) -> tuple[str, list[str]]:
    base, *keys = name.removesuffix("]").replace("][", "[").split("[")
    # Of "a.b.trust" the character may be "a.b": the longest that is declared.
    at = base.rfind(".")
    while at > 0:
        if base[:at] in world.characters and base[at + 1 :]:
            return base[:at], [base[at + 1 :], *keys]
        at = base.rfind(".", 0, at)
    for character, prop in owners(name):
        if character in world.characters and prop:
            return character, [prop]
    if "." in base and base.split(".", 1)[0] and base.split(".", 1)[1]:
        # Of a character that is not declared, as misspelled ids are: kept, so that the file says what it said.
        return base.split(".", 1)[0], [base.split(".", 1)[1], *keys]
    return global_character(world), [name]


def _scale(variable: Variable, largest: float) -> float:
    bounds = [abs(bound) for bound in (variable.minimum, variable.maximum) if math.isfinite(bound)]
    if len(bounds) == 2 and max(bounds) <= 1:
        return 1.0
    if len(bounds) == 2 and variable.minimum == -variable.maximum:
        return max(bounds)
    if len(bounds) == 2:
        return max(bounds) / LARGEST_CONSTANT
    return HEADROOM * max(1.0, largest, *bounds)


def _largest(world: World) -> dict[str, float]:
    """For each variable the largest number that it starts at, is compared with, or changed by."""
    largest = {name: abs(variable.initial) for name, variable in world.variables.items()}
    for name, value in _numbers(world):
        largest[name] = max(largest.get(name, 0.0), abs(value))
    return largest


def _numbers(world: World) -> Iterator[tuple[str, float]]:
    for option in [option for encounter in world.encounters for option in encounter.options]:
        for node in nodes(*option.gates, *option.performable):
            if isinstance(node, Gate):
                yield node.variable, node.value
        for effect in [effect for reaction in option.reactions for effect in reaction.effects]:
            if isinstance(effect, Effect):
                yield effect.variable, effect.change
