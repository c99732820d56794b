"""Worlds and scores as a notebook shows them: a drawing, a table, what is wrong."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from lit_narrative.report.format import clip, number, printable
from lit_narrative.tasks.storyworld.report.world_graph import MAX_ENCOUNTERS, draw_world

if TYPE_CHECKING:
    from lit_narrative.tasks.storyworld.issues import Issue
    from lit_narrative.tasks.storyworld.verifiers.score import Score
    from lit_narrative.tasks.storyworld.world import World

MOST_SHOWN = 12
"""Issues that are listed."""


def describe_world(world: "World") -> str:
    """A world in a line: its title and how much is in it."""
    counts = {"encounters": world.encounters, "characters": world.characters, "variables": world.variables}
    title = f" '{printable(clip(world.title, 60))}'" if world.title else ""
    return f"World{title}: " + ", ".join(f"{len(things)} {name}" for name, things in counts.items())


def world_html(world: "World") -> str:
    """A world as HTML: what is in it, and its encounters as a drawing."""
    line = describe_world(world)
    if not world.encounters:
        return str(Markup("<p>{}</p>").format(line))
    more = len(world.encounters) - MAX_ENCOUNTERS
    left = f"; the first {MAX_ENCOUNTERS} encounters are drawn" if more > 0 else ""
    return str(Markup("<p>{}{}</p>{}").format(line, left, draw_world(world, line)))


def describe_score(score: "Score") -> str:
    """A score in a line: the total, and each component."""
    parts = ", ".join(f"{printable(name)} {number(value)}" for name, value in score.components.items())
    return f"Score {number(score.total)} ({parts})"


def score_html(score: "Score") -> str:
    """A score as HTML: components with their total, what makes a sound world, what is wrong, and the world."""
    rows = _rows(score.components) + Markup("<tr><th>total</th><th>{}</th></tr>").format(number(score.total))
    parts = ", ".join(f"{name} {'yes' if held else 'no'}" for name, held in score.parts.items())
    world = Markup(world_html(score.world)) if score.world is not None else ""  # escaped there
    return str(Markup("<table>{}</table><p>{}</p>{}{}").format(rows, parts, _issues(score.issues), world))


def _rows(values: Mapping[str, float]) -> Markup:
    row = Markup("<tr><td>{}</td><td>{}</td></tr>")
    return Markup("").join(row.format(printable(name), number(value)) for name, value in values.items())


def _issues(issues: Sequence["Issue"]) -> Markup:
    item = Markup("<li>{}: <code>{}</code> {}</li>")
    shown = (
        item.format(issue.severity, printable(clip(issue.path, 120)), printable(clip(issue.message, 300)))
        for issue in issues[:MOST_SHOWN]
    )
    more = len(issues) - MOST_SHOWN
    return Markup("<ul>{}{}</ul>").format(
        Markup("").join(shown), Markup("<li>… {} more</li>").format(more) if more > 0 else ""
    )
