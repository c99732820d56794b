"""What a reader of a world would stumble on although its shape and its references are right."""

from collections.abc import Iterator

from lit_narrative.tasks.storyworld.checks import Fault
from lit_narrative.tasks.storyworld.plan import Plan
from lit_narrative.tasks.storyworld.reachability import can_end, only_loops, reachable


def doubts(plan: Plan) -> Iterator[Fault]:
    """Encounters that nothing leads to, loops without a way out, a story without an end, variables without a use."""
    found = reachable(plan)
    for i, encounter in enumerate(plan.world.encounters):
        if i not in found:
            yield Fault(("encounters", i), f"no option leads to encounter {encounter.id[:80]!r}")
        elif only_loops(plan, i):
            yield Fault(("encounters", i), f"every option of encounter {encounter.id[:80]!r} leads back to it")
    if plan.scenes and not any([can_end(plan, i) for i in found]):
        yield Fault(("encounters",), "no ending can be reached")
    used = _used(plan)
    for name in plan.names:
        if name not in used:
            yield Fault(("initial_state", name), f"variable {name[:80]!r} is neither read by a gate nor changed")


def _used(plan: Plan) -> set[str]:
    """Variables that a gate reads or an effect changes by more than nothing."""
    names: set[str] = set()
    for encounter in plan.world.encounters:
        for option in encounter.options:
            names.update([gate.variable for gate in option.gates])
            for reaction in option.reactions:
                names.update([effect.variable for effect in reaction.effects if effect.change])
    return names
