"""The structure of a world as a profile: how rich it is in options, reactions, effects, scripts and words.

The figures and thresholds are those by which authors of generated SweepWeave worlds polish them. Three are corrected:
the second act is no longer found within the third ("act ii" in "act iii"), an operator's share counts operators and not
constants, and evenness of operators, of which the original's check could not fail, is left to ``dominance``.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from statistics import fmean

from lit_narrative.tasks.storyworld.checks import faults
from lit_narrative.tasks.storyworld.expressions import Apply, Gate, Node, nodes, variables_read
from lit_narrative.tasks.storyworld.simulator.measures import Measure
from lit_narrative.tasks.storyworld.world import Effect, Encounter, Option, Reaction, World

_ACTS = {
    2: re.compile(r"(?<![a-z])act[ _-]?(ii|2)(?![a-z0-9])"),
    3: re.compile(r"(?<![a-z])act[ _-]?(iii|3)(?![a-z0-9])"),
}
"""What names of spools and encounters of an act hold."""
SECRET = "page_secret_"
"""How ids of secret encounters begin."""


def profile(world: World) -> tuple[Measure, ...]:
    """The profile of a world; ratios of what it has none of are 0."""
    options = [option for encounter in world.encounters for option in encounter.options]
    reactions = [reaction for option in options for reaction in option.reactions]
    return (
        *_counts(world, options, reactions),
        *_acts(world),
        *_scripts(world, options, reactions),
        *_words(world, reactions),
        Measure("errors", sum(1 for _ in faults(world)), "faults of references and bounds", high=0.0, share=False),
    )


def _counts(world: World, options: Sequence[Option], reactions: Sequence[Reaction]) -> Iterator[Measure]:
    scenes = [encounter for encounter in world.encounters if encounter.options]
    yield _ratio("options_per_encounter", len(options), len(scenes), 3.2, "of encounters that have options")
    yield _ratio("reactions_per_option", len(reactions), len(options), 2.5, "ways in which an option may go")
    effects = sum(len(reaction.effects) for reaction in reactions)
    yield _ratio("effects_per_reaction", effects, len(reactions), 4.5, "changes that a reaction makes")
    read = sum(len(set(variables_read(reaction.desirability))) for reaction in reactions)
    yield _ratio("variables_per_desirability", read, len(reactions), 1.6, "different variables that decide a reaction")
    gated = sum(bool(option.gates) for option in options)
    yield _share("visibility_gated", gated, len(options), 0.03, "options that are not always seen")
    closed = sum(bool(option.performable) for option in options)
    yield _share("performability_gated", closed, len(options), None, "options that are seen and not always open")


def _acts(world: World) -> Iterator[Measure]:
    for act, (share, count) in {2: (0.05, 1.2), 3: (0.08, 1.5)}.items():
        scenes = [encounter for encounter in world.encounters if _of_act(encounter, act)]
        options = [option for encounter in scenes for option in encounter.options]
        gated = [option for option in options if option.gates or option.performable]
        yield _share(f"act{act}_gated", len(gated), len(options), share, f"options of act {act} with conditions")
        read = [len(set(variables_read(*option.gates, *option.performable))) for option in gated]
        yield _ratio(f"act{act}_gate_variables", sum(read), len(read), count, "different variables of such conditions")
    secrets = [encounter for encounter in world.encounters if encounter.id.startswith(SECRET)]
    measured = sum(any(_is_distance(part) for part in nodes(*one.acceptability)) for one in secrets)
    meaning = "secret encounters that ask for a distance (abs) of two variables or more"
    yield _share("secret_distances", measured, len(secrets), None, meaning)


def _of_act(encounter: Encounter, act: int) -> bool:
    return any(_ACTS[act].search(name.lower()) for name in (encounter.id, *encounter.spools))


def _is_distance(node: Node) -> bool:
    return isinstance(node, Apply) and node.op in ("abs", "distance") and len(set(variables_read(node))) >= 2


def _scripts(world: World, options: Sequence[Option], reactions: Sequence[Reaction]) -> Iterator[Measure]:
    effects = [effect for reaction in reactions for effect in reaction.effects if isinstance(effect, Effect)]
    wanted: list[Node] = [reaction.desirability for reaction in reactions]
    values: list[Node] = [_written(effect) for effect in effects]
    for name, scripts, variety, dominance in (("desirability", wanted, 3, 0.9), ("effect", values, 2, 0.92)):
        used = Counter(node.op for node in nodes(*scripts) if isinstance(node, Apply))
        yield Measure(f"{name}_operators", len(used), f"kinds of operators in {name} scripts", low=variety, share=False)
        commonest = max(used.values(), default=0)
        meaning = f"share of the commonest operator in {name} scripts"
        yield Measure(f"{name}_dominance", commonest / max(used.total(), 1), meaning, high=dominance)
        varied = sum(_varies(script) for script in scripts)
        yield _share(f"{name}_varies", varied, len(scripts), 0.999, f"{name} scripts that read a variable")
        yield _ratio(f"{name}_complexity", used.total(), len(scripts), 1.2, f"operators of each {name} script")
    open_ = [[*option.gates, *option.performable] for option in options]
    yield _share("options_vary", sum(map(bool, open_)), len(options), 0.03, "options with conditions")
    yield _ratio("option_complexity", sum(map(_size, open_)), len(options), 0.6, "tests and operators of an option")
    scenes = world.encounters
    accepted = sum(bool(scene.acceptability) for scene in scenes)
    yield _share("acceptability_varies", accepted, len(scenes), 0.2, "encounters with conditions for selection")
    preferred = sum(_varies(scene.desirability) for scene in scenes)
    yield _share("encounters_vary", preferred, len(scenes), 0.2, "encounters whose desirability reads a variable")
    sizes = sum(_size([scene.desirability]) for scene in scenes)
    yield _ratio("encounter_complexity", sizes, len(scenes), 0.5, "operators of an encounter's desirability")
    yield from _perceptions(world)


def _written(effect: Effect) -> Node:
    """What the effect sets its variable to, as a script of the editor says it."""
    if effect.op == "set" and effect.value is not None:
        return effect.value
    by: Node = effect.change if effect.value is None else effect.value
    return Apply("nudge" if effect.op == "nudge" else "+", (effect.variable, by))


def _varies(script: Node) -> bool:
    return next(variables_read(script), None) is not None


def _size(scripts: Iterable[Node]) -> int:
    return sum(isinstance(node, Apply | Gate) for node in nodes(*scripts))


def _perceptions(world: World) -> Iterator[Measure]:
    """Variables that say what a character makes of another (``a.p[b]``), or of a third one's view (``a.p[b][c]``)."""
    for name, depth, who in (("perceived", 1, "another"), ("perceived_twice", 2, "what another makes of a third")):
        count = sum(variable.count("[") == depth for variable in world.variables)
        meaning = f"variables that say what a character makes of {who}"
        yield Measure(name, count, meaning, low=1.0, share=False)


def _words(world: World, reactions: Sequence[Reaction]) -> Iterator[Measure]:
    scenes = [len(encounter.text.split()) for encounter in world.encounters]
    told = [len(reaction.text.split()) for reaction in reactions]
    yield Measure("encounter_words", _mean(scenes), "words of an encounter", low=50.0, share=False)
    yield Measure("reaction_words", _mean(told), "words of a reaction", low=20.0, share=False)


def _mean(counts: Sequence[int]) -> float:
    return fmean(counts) if counts else 0.0


def _ratio(name: str, count: float, of: int, least: float | None, meaning: str) -> Measure:
    return Measure(name, count / max(of, 1), meaning, low=least, share=False)


def _share(name: str, count: float, of: int, least: float | None, meaning: str) -> Measure:
    return Measure(name, count / max(of, 1), meaning, low=least)
