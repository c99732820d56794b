"""The graph of a world: which encounters can follow from the first, and which of them are endings.

Gates are left out: an encounter behind a gate that never opens is reachable here. What plays really meet is the
business of ``simulate.py``.
"""

from lit_narrative.tasks.storyworld.plan import END, Plan


def reachable(plan: Plan) -> frozenset[int]:
    """Positions of the encounters that options lead to from the first one, which is among them."""
    found = {0} if plan.scenes else set()
    pending = list(found)
    while pending:
        for choice in plan.scenes[pending.pop()]:
            if choice.target >= 0 and choice.target not in found:
                found.add(choice.target)
                pending.append(choice.target)
    return frozenset(found)


def is_terminal(plan: Plan, index: int) -> bool:
    """Whether an encounter is an ending: it has no options, or each of them ends the story in so many words.

    An option that says nothing of what follows, or names an encounter that does not exist, is a dead end and makes
    no ending.
    """
    return all([choice.target == END for choice in plan.scenes[index]])


def can_end(plan: Plan, index: int) -> bool:
    """Whether a play may end well at an encounter: it has no options, or at least one that ends the story."""
    scene = plan.scenes[index]
    return not scene or any([choice.target == END for choice in scene])


def goes_on(plan: Plan, index: int) -> bool:
    """Whether an encounter has an option that leads to an existing encounter or ends the story."""
    return any([choice.target >= END for choice in plan.scenes[index]])


def only_loops(plan: Plan, index: int) -> bool:
    """Whether every option of an encounter leads back to itself."""
    scene = plan.scenes[index]
    return bool(scene) and all([choice.target == index for choice in scene])
