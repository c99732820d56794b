"""Soundness: whether a world works as a story, part by part and as a whole; each part is answered by seeded plays.

A world is *playable* when it has no fault, two endings are met, and no play comes to a dead end. It is *sound* when, in
addition, some gate makes a difference.
"""

from collections.abc import Mapping

from lit_narrative.tasks.storyworld.simulator.graph import is_terminal
from lit_narrative.tasks.storyworld.simulator.play import Outcome
from lit_narrative.tasks.storyworld.simulator.quick_plays import has_gates, live_gates
from lit_narrative.tasks.storyworld.verifiers.base import Context, component

LOST: tuple[Outcome, ...] = ("stuck", "dangling", "implicit")
"""Dead ends. So is a play that is cut off after ``max_steps`` and finds no ending when it goes on (``endless``)."""
LACKS = {
    "no_error": "it has errors",
    "two_endings": "seeded plays meet too few endings",
    "no_dead_end": "a play came to a dead end",
    "live_gate": "no gate was met both open and closed",
}
"""What a world that is not sound lacks, by the part of soundness."""


@component("no_error")
def no_error(context: Context) -> float:
    """1 for a world of which every check of shape and reference passes (``schema`` is 1), 0 for any other."""
    has_options = any([encounter.options for encounter in context.story.encounters])
    broken = context.malformed or context.parsed.duplicates or any(context.faults)
    return float(has_options and not broken)


@component("few_errors")
def few_errors(context: Context) -> float:
    """1 / (1 + number of faults): a penalty for each, where ``schema`` only counts which checks fail.

    Counted are malformed parts, objects with a key twice, and what the checks find, ``MOST_ISSUES`` of each at most.
    """
    faults = context.malformed.total() + context.parsed.duplicates + sum([len(found) for found in context.faults])
    # A world without any option is no story, and yet no part of it is wrong.
    return 1 / (1 + (faults or 1 - no_error(context)))


@component("playable")
def playable(context: Context) -> float:
    """1 for a world without a fault, of which seeded plays meet two endings and no dead end; 0 for any other."""
    return float(no_error(context) > 0 and two_endings(context) and no_dead_end(context))


@component("sound")
def sound(context: Context) -> float:
    """1 for a playable world with a live gate, 0 for any other."""
    return float(playable(context) > 0 and live_gate(context))


def parts(context: Context) -> dict[str, bool]:
    """What soundness asks for, by name, and with what is made of it: ``playable`` and ``sound``.

    A world with thousands of parts, which cannot be played as often as ``config.plays`` asks within its time, is not
    judged by few plays: what plays decide is False of it.
    """
    return {
        "parses": bool(context.story.encounters),
        "no_error": no_error(context) > 0,
        "two_endings": two_endings(context),
        "no_dead_end": no_dead_end(context),
        "live_gate": live_gate(context),
        "playable": playable(context) > 0,
        "sound": sound(context) > 0,
    }


def funnel(found: Mapping[str, bool]) -> dict[str, bool]:
    """The parts as stages, each of which holds only if those before it do; the last one asks for no dead end, too."""
    stages, held = {}, True
    for name in ("parses", "no_error", "two_endings", "live_gate", "sound"):
        held = held and found[name]
        stages[name] = held
    return stages


def two_endings(context: Context) -> bool:
    """Whether seeded plays meet ``config.min_endings`` endings, encounters whose options all end the story, or more."""
    # Met, not only reachable by the graph: a second ending behind a gate that never opens would be none.
    met = [i for i in context.played.endings if is_terminal(context.plan, i)]
    return context.played.whole and len(met) >= context.config.min_endings


def no_dead_end(context: Context) -> bool:
    """Whether no seeded play is stuck, lost where nothing or something unknown follows, or caught in a round."""
    played = context.played
    return played.whole and not played.endless and not any([played.outcomes[name] for name in LOST])


def live_gate(context: Context) -> bool:
    """Whether some gate was met both open and closed at the times that its option was offered."""
    return has_gates(context.plan) and context.played.whole and bool(live_gates(context.plan, context.played))
