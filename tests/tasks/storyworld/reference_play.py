"""A short and slow player of any world that selects nothing: what the engines and the exports are compared with."""

from collections.abc import Iterator, Sequence

from lit_narrative.tasks.storyworld.expressions import LARGEST, Happened, nodes
from lit_narrative.tasks.storyworld.formats.sweepweave.write import alternatives
from lit_narrative.tasks.storyworld.scripts import Slot, asymptotic_nudge, compile_all, compile_expr
from lit_narrative.tasks.storyworld.world import Effect, Reaction, World

Path = tuple[tuple[str, ...], str | None]
"""The texts of the options taken, and the id of the encounter where the story ended; None where it ended nowhere."""


def every_path(world: World, most: int = 3000, max_steps: int = 12) -> Iterator[Path]:
    """Every play of a world whose reactions all say what follows, depth first; one of too many steps is left out."""
    scenes = {encounter.id: encounter for encounter in reversed(world.encounters)}
    slots: dict[Slot, int] = {name: i for i, name in enumerate(world.variables)}
    state = [variable.initial for variable in world.variables.values()]
    pending = [(world.start or world.encounters[0].id, state, ())]
    while pending and most:
        most -= 1
        name, state, taken = pending.pop()
        scene = scenes[name]
        open_options = [o for o in scene.options if compile_all((*o.gates, *o.performable), slots)(state)]
        if not open_options:
            yield taken, None if scene.options else name
        for option in open_options:
            assert not any(isinstance(node, Happened) for node in nodes(*option.gates))
            after, following = _followed(world, slots, list(state), option.reactions)
            here = (*taken, option.text)
            if following is None or following not in scenes:
                yield here, name if following is None else None
            elif len(here) < max_steps:
                pending.append((following, after, here))


def _followed(
    world: World, slots: dict[Slot, int], state: list[float], reactions: Sequence[Reaction]
) -> tuple[list[float], str | None]:
    runs = alternatives(reactions)
    if not runs:
        return state, ""
    worth = [compile_expr(run[-1].desirability, slots)(state) for run in runs]
    run = runs[worth.index(max(worth))]
    for effect in [effect for reaction in run for effect in reaction.effects]:
        if isinstance(effect, Effect) and effect.variable in world.variables:
            at, variable = slots[effect.variable], world.variables[effect.variable]
            by = effect.change if effect.value is None else compile_expr(effect.value, slots)(state)
            new = {"add": state[at] + by, "set": by, "nudge": asymptotic_nudge(state[at], by)}[effect.op]
            state[at] = min(max(new, variable.minimum, -LARGEST), variable.maximum, LARGEST)
    return state, run[-1].next_encounter if run[-1].leads else ""
