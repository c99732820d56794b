"""Pieces of a world's text: where each encounter and each option of it stands, and what a play has read of them.

They let an autoencoder of the policy's residual stream see a moment of play: as the text that leads up to it.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from lit_narrative.tasks.storyworld.formats.compact import compact_spans, compact_start
from lit_narrative.tasks.storyworld.simulator.play import Play
from lit_narrative.tasks.storyworld.world import World
from lit_narrative.views import Span

_PART = re.compile(r'"(?:[^"\\]|\\.)*"?|[][{}:]', re.DOTALL)
"""A string, or a sign that the nesting of a JSON text depends on; a string without an end is read once, to the end."""
_ENCOUNTERS = ("", "encounters")
_ENCOUNTER = (*_ENCOUNTERS, "")
_OPTIONS = (*_ENCOUNTER, "options")
_OPTION = (*_OPTIONS, "")


class EncounterSpans(NamedTuple):
    """Where an encounter stands in a text, and where each of its options does."""

    whole: Span
    options: list[Span]


def encounter_spans(text: str) -> list[EncounterSpans]:
    """The encounters of a world's text, in order, whatever their content.

    Args:
        text: JSON, or in the compact form; of anything else the answer means nothing.
    """
    if compact_start(text) is not None:
        return [EncounterSpans(*one) for one in compact_spans(text)]
    found: list[EncounterSpans] = []
    options: list[Span] = []
    opened: list[tuple[str, int, bool]] = []  # key, or "" in an array; first character; whether it is an object
    string = key = ""
    for part in _PART.finditer(text):
        sign = part[0]
        if sign == ":":
            key = string
        elif sign in "{[":
            opened.append((key if opened and opened[-1][2] else "", part.start(), sign == "{"))
            path = tuple(name for name, _, _ in opened[:5])
            if len(opened) == len(_ENCOUNTERS) and path == _ENCOUNTERS:
                found = []  # a key that occurs twice counts for the last time
            elif (len(opened) == len(_OPTIONS) and path == _OPTIONS) or len(opened) == len(_ENCOUNTER):
                options = []
        elif sign in "}]":
            if not opened:
                break
            path, span = tuple(name for name, _, _ in opened[:6]), (opened[-1][1], part.end())
            opened.pop()
            if path == _OPTION:
                options.append(span)
            elif path == _ENCOUNTER:
                found.append(EncounterSpans(span, options))
        else:
            string = sign[1:-1]
    return found


def moment_pieces(text: str, world: World, plays: Sequence[Play]) -> list[tuple[Span, ...]]:
    """What each play of a world has read at each of its steps: the encounter, and the options chosen on the way there.

    Args:
        text: of the world.
        world: as it was read.
        plays: of it.

    Returns:
        The pieces of each step of each play, in order; none where the text has parts that the world has not, since
        malformed ones were dropped when it was read.
    """
    spans = encounter_spans(text) if plays else []
    if [len(one.options) for one in spans] != [len(encounter.options) for encounter in world.encounters]:
        return []
    moments = []
    for play in plays:
        chosen: tuple[Span, ...] = ()
        for step in play.steps:
            moments.append((spans[step.index].whole, *chosen))
            if step.choice is not None:
                chosen = (*chosen, spans[step.index].options[step.choice])
    return moments
