"""The shipped components: the six of the strict score, then the optional ones.

Each is a number in 0..1, and a pure function of (text, seed).
"""

from collections.abc import Mapping, Sequence

from lit_narrative.tasks.storyworld.checks import CHECKS, Fault
from lit_narrative.tasks.storyworld.formats.simple import TOP_KEYS
from lit_narrative.tasks.storyworld.simulator.graph import is_terminal
from lit_narrative.tasks.storyworld.simulator.quick_plays import has_gates, live_gates
from lit_narrative.tasks.storyworld.verifiers.base import Context, component
from lit_narrative.tasks.storyworld.world import World


@component("valid_json")
def valid_json(context: Context) -> float:
    """1 for a JSON object; less where text around the value is allowed: the share of the text that it is."""
    return context.parsed.read if type(context.value) is dict else 0.0


@component("schema")
def schema(context: Context) -> float:
    """Share of the checks of shape and reference that pass (`schema_share`)."""
    return schema_share(context.story, context.malformed, context.parsed.duplicates, context.faults)


@component("structure")
def structure(context: Context) -> float:
    """Mean of three terms: enough characters, enough encounters, and encounters that lead on.

    The second counts encounters that the story can meet and still end well after. The third is the share of those,
    over the reachable encounters that are not endings; 0 where every one is an ending. A story that cannot end has no
    structure.
    """
    config, plan = context.config, context.plan
    if not context.viable:
        return 0.0
    cast = min(len(context.story.characters) / config.min_characters, 1.0)
    scenes = min(len(context.viable) / config.min_encounters, 1.0)
    # Endings are left out: most have no option that could lead on, and would lower the share.
    inner = [i for i in context.reachable if not is_terminal(plan, i)]
    leading = sum([i in context.viable for i in inner]) / len(inner) if inner else 0.0
    return (cast + scenes + leading) / 3


@component("effects")
def effects(context: Context) -> float:
    """Distinct declared variables that options of reachable encounters change, by more than nothing."""
    scenes = context.plan.scenes
    # c is (variable, change, low, high); a change of 0 would pay for nothing.
    changed = {c[0] for i in context.reachable for choice in scenes[i] for c in choice.changes if c[1]}
    return min(len(changed) / context.config.min_effect_types, 1.0)


@component("secrets")
def secrets(context: Context) -> float:
    """`gate_curve` of the share of options with live gates (``quick_plays.live_gates``).

    A gate is live where it reads declared variables only and was met both open and closed by seeded plays, at the
    times that its option was offered.
    """
    plan = context.plan
    # The share is of all options: those of encounters that cannot be reached count, but never as live.
    total = sum([len(encounter.options) for encounter in plan.world.encounters])
    # Without gates there is nothing to play for.
    if not total or not has_gates(plan):
        return 0.0
    return gate_curve(len(live_gates(plan, context.played)) / total)


@component("endings")
def endings(context: Context) -> float:
    """Distinct reachable endings; a dead end does not count."""
    count = sum([is_terminal(context.plan, i) for i in context.reachable])
    return min(count / context.config.min_endings, 1.0)


@component("playability")
def playability(context: Context) -> float:
    """Optional: share of seeded plays that come to an ending, neither stuck nor lost nor endless."""
    return context.played.outcomes["ending"] / context.played.runs


@component("json_prefix")
def json_prefix(context: Context) -> float:
    """Optional, for policies that cannot write JSON yet: share of the text before the first fault of its JSON.

    The one component that pays for texts that are not a world.
    """
    return 1.0 if context.parsed.ok else context.parsed.read


def gate_curve(share: float) -> float:
    """The score of a share of gated options: rises to 1 at 0.2, stays there to 0.5, falls to 0 at 1."""
    if share < 0.2:
        return share / 0.2
    return 1.0 if share <= 0.5 else max(0.0, 1.0 - 2.0 * (share - 0.5))


def schema_share(
    world: World, malformed: Mapping[str, int], duplicates: int, faults: Sequence[Sequence[Fault]]
) -> float:
    """Share of the checks that pass: four top-level keys, the kinds of parts, the references; 0 to 1.

    Kinds and references of which the world has none do not count, except encounters and options: without those
    there is no storyworld. A value without a single encounter that can be read passes nothing.

    Args:
        world: what could be read.
        malformed: number of malformed parts by kind (see ``formats.simple.read_counting``).
        duplicates: number of objects with a key that occurs twice.
        faults: what each of the ``CHECKS`` finds, in their order.
    """
    if not world.encounters:
        return 0.0
    passed, total = len(TOP_KEYS) - malformed["keys"], len(TOP_KEYS)
    total += bool(duplicates) + bool(malformed["more"])
    kinds = _kinds(world)
    for kind, present in kinds.items():
        if malformed[kind] or present or kind == "options":
            total += 1
            passed += present and not malformed[kind]
    for (_, kind), found in zip(CHECKS, faults, strict=True):
        if kinds[kind]:
            total += 1
            passed += not found
    return passed / total


def _kinds(world: World) -> dict[str, bool]:
    """Which kinds of parts the world has."""
    options = [option for encounter in world.encounters for option in encounter.options]
    reactions = [reaction for option in options for reaction in option.reactions]
    return {
        "characters": bool(world.characters),
        "initial_state": bool(world.variables),
        "properties": bool(world.properties),
        "encounters": True,
        "options": bool(options),
        "gates": any([option.gates for option in options]),
        "reactions": bool(reactions),
        "effects": any([reaction.effects for reaction in reactions]),
    }
