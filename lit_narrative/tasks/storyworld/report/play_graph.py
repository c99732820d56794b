"""Where plays of a world went, drawn as a graph: boxes are encounters, arrows the ways that plays took between them."""

from collections.abc import Sequence

from markupsafe import Markup

from lit_narrative.report.format import clip, percent
from lit_narrative.tasks.storyworld.report.world_graph import Arrow, Vertex, drawn
from lit_narrative.tasks.storyworld.simulator.tally import Move, Tally

MOST_BOXES, MOST_ENDINGS = 40, 12
"""Encounters that are drawn: those that most plays visited, and as many of the endings that most came to."""
MOST_ARROWS = 100
"""Ways that are drawn: those that most plays took."""
_WIDEST = 6.0


def draw_plays(found: Tally, label: str) -> Markup:
    """Draw the encounters that most plays visited, with the share of plays that did, and the ways between them.

    An arrow is the wider the more often it was taken. Ways to and from what is not drawn are left out.
    """
    shown = most_visited(found)
    places = {index: place for place, index in enumerate(shown)}
    vertices = [_box(found, index) for index in shown]
    drawable = [move for move in found.moves if move[0] in places and move[1] in places]
    kept = sorted(drawable, key=lambda move: -found.moves[move])[:MOST_ARROWS]
    arrows = [_arrow(found, move, places[move[0]], places[move[1]]) for move in sorted(kept)]
    return drawn(vertices, arrows, label)


def most_visited(found: Tally) -> Sequence[int]:
    """Positions of the encounters that are drawn, the start first, then in the order of the file."""
    first, scenes = found.engine.begin().index, found.engine.world.encounters
    ranked = sorted(found.visits, key=lambda index: (-found.visits[index], index))
    # Endings first: of a long story most of them are met by fewer plays than any scene of its beginning.
    ends = [index for index in ranked if not scenes[index].options][:MOST_ENDINGS]
    kept = list(dict.fromkeys([first, *ends, *ranked]))[:MOST_BOXES]
    return sorted(kept, key=lambda index: (index != first, index))


def _box(found: Tally, index: int) -> Vertex:
    encounter = found.engine.world.encounters[index]
    name, share = encounter.title or encounter.id, found.visits[index] / found.runs
    ends = found.endings[encounter.id] / found.runs
    line = f"{percent(share)} of plays"
    tip = f"{clip(encounter.id, 60)}: {clip(encounter.text, 200)} ({line}, {percent(ends)} end here)"
    return Vertex("ending" if not encounter.options else "encounter", clip(name, 16), line, tip)


def _arrow(found: Tally, move: Move, start: int, end: int) -> Arrow:
    count, scenes = found.moves[move], found.engine.world.encounters
    tip = f"{clip(scenes[move[0]].id, 60)} to {clip(scenes[move[1]].id, 60)}: {count} times in {found.runs} plays"
    # At least a hair's breadth; a loop may be taken several times a play.
    return Arrow(start, end, False, tip, min(0.8 + 5.2 * count / found.runs, _WIDEST))
