"""Digests that tell whether two worlds are the same: as texts, but for characters' names, or in structure alone.

Digests are stable between processes and machines.
"""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from lit_narrative.tasks.storyworld.expressions import Condition, Gate, nodes
from lit_narrative.tasks.storyworld.formats.parse import Limits, detect, parse
from lit_narrative.tasks.storyworld.formats.simple import read_world
from lit_narrative.tasks.storyworld.simulator.plan import DANGLING, END, IMPLICIT
from lit_narrative.tasks.storyworld.world import Effect, Option, World

MOST_NAMES = 32
LONGEST_NAME = 64
"""Characters whose names are removed, and how long these may be; others keep theirs, so that the cost is bounded."""
_LIMITS = Limits()


def text_digest(text: str) -> str:
    """Digest of the text as it is."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def names_digest(text: str, limits: Limits = _LIMITS) -> str | None:
    """Digest of the text with each character's name replaced by its number, also within variables and sentences.

    Args:
        text: any text.
        limits: bounds on it, and what is forgiven in it.

    Returns:
        The digest; ``None`` where the text is not a world.
    """
    world = _read(text, limits)
    return None if world is None else _names_digest(text, world)


def _names_digest(text: str, world: World) -> str:
    # By number and not by one mark for all: who does what to whom is part of the world.
    first = list(world.characters)[:MOST_NAMES]
    names = {name: f"@{i}" for i, name in enumerate(first) if 0 < len(name) <= LONGEST_NAME}
    if not names:
        return text_digest(text)
    # Longest first: of "Mara" and "Mara_Lou" the whole name is replaced.
    pattern = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    # An underscore ends a name here, unlike in \b: `Mara_trust` holds the name Mara.
    whole = re.compile(f"(?<![^\\W_])(?:{pattern})(?![^\\W_])")
    return text_digest(whole.sub(lambda match: names[match.group()], text))


def skeleton_digest(text: str, limits: Limits = _LIMITS) -> str | None:
    """Digest of the structure: which options lead where, what their gates read, what their effects change.

    Names, texts and numbers are removed: encounters, options and variables count by their position.

    Args:
        text: any text.
        limits: bounds on it, and what is forgiven in it.

    Returns:
        The digest; ``None`` where the text is not a world.
    """
    world = _read(text, limits)
    return None if world is None else _skeleton_digest(world)


def _skeleton_digest(world: World) -> str:
    return text_digest(repr(skeleton(world)))


def skeleton(world: World) -> tuple[Any, ...]:
    """The structure of a world as nested tuples of positions."""
    variables = {name: i for i, name in enumerate(world.variables)}
    positions = _positions(world)
    scenes = tuple(tuple(_bare(option, variables, positions) for option in e.options) for e in world.encounters)
    return len(world.characters), len(variables), scenes


def shape(world: World) -> tuple[tuple[int, ...], ...]:
    """Where each option leads, over the encounters that can follow from the first, numbered as they are met.

    Negative where an option leads to none (``plan.END`` and its like). Coarser than the skeleton: who takes part, and
    what gates and effects do, is left out; so are encounters that nothing leads to, and the order of the others in the
    file, neither of which a play shows.
    """
    positions = _positions(world)
    order = [0] if world.encounters else []
    number = dict.fromkeys(order, 0)
    scenes = []
    for i in order:  # grows within
        scene = []
        for option in world.encounters[i].options:
            target = _leads_to(option, positions)
            if target >= 0 and target not in number:
                number[target] = len(order)
                order.append(target)
            scene.append(number.get(target, target))
        scenes.append(tuple(scene))
    return tuple(scenes)


def _positions(world: World) -> dict[str | None, int]:
    """The position of each encounter by id; of two with one id that of the first, which is the one played."""
    positions: dict[str | None, int] = {}
    for i, encounter in enumerate(world.encounters):
        positions.setdefault(encounter.id, i)
    return positions


def _leads_to(option: Option, positions: dict[str | None, int]) -> int:
    for reaction in option.reactions:
        if reaction.leads:
            return END if (target := _target(reaction.next_encounter, positions)) is None else target
    return IMPLICIT


def shape_measures(worlds: Sequence[World]) -> dict[str, float]:
    """How various worlds are in shape; each 0 where there is none.

    Returns:
        ``effective_shapes``: the effective number of shapes, exp of their entropy in nats (1 to the number of worlds).
        ``commonest_shape``: share of the worlds that have the commonest. ``encounters``: mean number a world, of those
        that can follow from the first.
    """
    shapes = [shape(world) for world in worlds]
    counts = Counter(shapes).values()
    n = len(worlds)
    if not n:
        return {"effective_shapes": 0.0, "commonest_shape": 0.0, "encounters": 0.0}
    entropy = -sum([count / n * math.log(count / n) for count in counts])
    encounters = sum(map(len, shapes)) / n
    return {"effective_shapes": math.exp(entropy), "commonest_shape": max(counts) / n, "encounters": encounters}


def unique_shares(texts: Sequence[str], limits: Limits = _LIMITS) -> dict[str, float]:
    """How many of the texts differ, and how.

    Args:
        texts: any texts.
        limits: bounds on each, and what is forgiven in it.

    Returns:
        ``unique``: distinct texts / texts. ``unique_names`` and ``unique_skeleton``: distinct worlds / worlds, among
        the texts that are worlds. Each 0 where there is nothing to count. Then `shape_measures` of the worlds.
    """
    names, skeletons, worlds = [], [], []
    for text in texts:
        if (world := _read(text, limits)) is not None:  # once for both: reading is most of the work
            names.append(_names_digest(text, world))
            skeletons.append(_skeleton_digest(world))
            worlds.append(world)
    return {
        "unique": _unique(list(map(text_digest, texts))),
        "unique_names": _unique(names),
        "unique_skeleton": _unique(skeletons),
        **shape_measures([world for world in worlds if world.encounters]),
    }


def _unique(digests: Sequence[str]) -> float:
    return len(set(digests)) / len(digests) if digests else 0.0


def _read(text: str, limits: Limits) -> World | None:
    value = parse(text, limits).value
    if type(value) is not dict or detect(value) != "simple":
        return None
    return read_world(value)[0]


def _bare(option: Option, variables: dict[str, int], positions: dict[str | None, int]) -> tuple[Any, ...]:
    gates = tuple(
        (variables.get(gate.variable, -1), gate.comparison) if isinstance(gate, Gate) else _reads(gate, variables)
        for gate in (*option.gates, *option.performable)
    )
    reactions = tuple(
        (
            tuple(
                variables.get(effect.variable, -1) if isinstance(effect, Effect) else -1 for effect in reaction.effects
            ),
            _target(reaction.next_encounter, positions) if reaction.leads else IMPLICIT,
        )
        for reaction in option.reactions
    )
    return gates, reactions


def _reads(condition: Condition, variables: dict[str, int]) -> tuple[Any, ...]:
    """Kinds of the parts of a condition, with the variables that they read."""
    return tuple(variables.get(node, -1) if isinstance(node, str) else type(node).__name__ for node in nodes(condition))


def _target(following: str | None, positions: dict[str | None, int]) -> int | None:
    return None if following is None else positions.get(following, DANGLING)
