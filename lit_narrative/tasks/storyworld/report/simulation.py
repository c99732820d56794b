"""The page of a simulation: how plays of a world end, where they go, what its gates are worth; the world to play."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from markupsafe import Markup

from lit_narrative.report.charts import Dot, Frame, Level, Line, dot_chart, line_chart
from lit_narrative.report.format import clip, number, percent
from lit_narrative.report.intervals import share_interval
from lit_narrative.report.page import Figure, Section, fill_page, render
from lit_narrative.tasks.storyworld.expressions import describe
from lit_narrative.tasks.storyworld.issues import Issue
from lit_narrative.tasks.storyworld.report.player import embedded, plan_json, script
from lit_narrative.tasks.storyworld.report.world_graph import Arrow, Vertex, drawn
from lit_narrative.tasks.storyworld.simulator.counterfactuals import GateEffect, Shift, gate_effects
from lit_narrative.tasks.storyworld.simulator.engine import Engine
from lit_narrative.tasks.storyworld.simulator.engine_plays import Policy
from lit_narrative.tasks.storyworld.simulator.exact import Exact, exact
from lit_narrative.tasks.storyworld.simulator.measures import Measure, measures
from lit_narrative.tasks.storyworld.simulator.profile import profile
from lit_narrative.tasks.storyworld.simulator.statistics import DEAD_ENDS, GateRate, Simulation
from lit_narrative.tasks.storyworld.simulator.tally import Move, Tally
from lit_narrative.tasks.storyworld.world import World

MOST_ENDINGS, MOST_CURVES, MOST_GATES, MOST_ISSUES = 24, 9, 100, 40
MOST_BOXES, MOST_DRAWN_ENDINGS = 40, 12
"""Encounters that are drawn: those that most plays visited, and as many of the endings that most came to."""
MOST_ARROWS = 100
"""Ways that are drawn: those that most plays took."""
_WIDEST = 6.0
MOST_MOMENTS = 20_000
"""Moments that the search for exact chances looks at: a second or two."""
LARGEST_PLAN = 3_000_000
"""Characters of a world that is put on the page to be played."""


@dataclass(frozen=True, slots=True)
class Simulated:
    """A world with what its plays have shown.

    Attributes:
        name: of the world.
        found: counts of the plays.
        result: what they say.
        settings: of the simulation, as a table shows them.
        effects: of the gates that were flipped.
        truth: exact chances, ``None`` where they were not worked out.
        issues: of the file.
    """

    name: str
    found: Tally
    result: Simulation
    settings: Mapping[str, Any]
    effects: Sequence[GateEffect] = ()
    truth: Exact | None = None
    issues: Sequence[Issue] = field(default_factory=tuple)


def simulation_json(world: World, result: Simulation) -> dict[str, Any]:
    """Endings with their intervals, the measures of the plays and the profile of the world, as JSON."""
    tables = {"measures": measures(result), "profile": profile(world)}
    endings = {rate.encounter: [rate.share, rate.low, rate.high] for rate in result.endings}
    return {"endings": endings, **{name: [one.to_json() for one in rows] for name, rows in tables.items()}}


def exact_and_effects(
    engine: Engine, policy: str, gate_plays: int, seed: int, choose: Callable[[np.random.Generator], Policy], steps: int
) -> tuple[Exact | None, Sequence[GateEffect]]:
    """The exact chances, which are of uniform choices; and what gates are worth, which a model is too slow for."""
    truth = exact(engine, steps, MOST_MOMENTS) if policy == "uniform" else None
    if not gate_plays or policy in ("model", "scripted"):
        return truth, ()
    return truth, gate_effects(engine, gate_plays, seed, choose, steps)


def simulation_page(one: Simulated) -> str:
    """The page of a simulation as HTML."""
    lead = "What many plays of one storyworld show, and the world itself, to be played at the end of the page."
    return fill_page(clip(one.name, 60), lead, [make(one) for make in SECTIONS], "simulation of a world")


def endings(one: Simulated) -> Section:
    """How plays end, in a chart and a table."""
    rows = sorted(ending_rows(one), key=lambda row: -row.share)
    shown = rows[:MOST_ENDINGS]
    dots = [
        (clip(row.label, 22), [Dot("share", row.share, "final" if row.ending else "sft", row.interval)])
        for row in shown
    ]
    chart = Figure("Share of plays, with 95% intervals", dot_chart("How plays end", dots, gutter=190)) if dots else None
    body = render(
        __name__, "simulated.html", sentences=verdict(one), chart=chart, rows=shown, more=len(rows) - len(shown),
        exact=one.truth is not None and one.truth.open_chance == 0,
    )  # fmt: skip
    return Section("endings", "How it ends", body)


@dataclass(frozen=True, slots=True)
class EndingRow:
    """A way to end: its name, share and interval; its exact chance where that is known."""

    label: str
    share: float
    interval: tuple[float, float]
    ending: bool
    chance: float | None = None


def ending_rows(one: Simulated) -> Iterator[EndingRow]:
    """The endings that are declared, then the outcomes that are none."""
    chances = None if one.truth is None or one.truth.open_chance else one.truth
    for rate in one.result.endings:
        known = None if chances is None else chances.endings.get(rate.encounter, 0.0)
        yield EndingRow(rate.encounter, rate.share, (rate.low, rate.high), True, known)
    for outcome in ("implicit", *DEAD_ENDS):
        share = one.result.outcomes.get(outcome, 0.0)
        known = None if chances is None else chances.outcomes.get(outcome, 0.0)  # type: ignore[call-overload]
        if share or known:
            yield EndingRow(f"({outcome})", share, share_interval(share, one.result.runs), False, known)


def verdict(one: Simulated) -> list[str]:
    """What the plays show, in sentences."""
    result = one.result
    met = [rate for rate in result.endings if rate.share]
    first = f"{result.runs:,} plays came to {len(met)} of {len(result.endings)} endings"
    if met:
        first += f", as various as {number(result.effective_endings, 1)} equally frequent ones"
    lost = f"{percent(result.dead_end_rate, 1)} of the plays came to a dead end"
    quiet = result.outcomes.get("implicit", 0.0)
    sentences = [first + ".", lost + (f", and {percent(quiet, 1)} ended without a word." if quiet else ".")]
    never = [gate for gate in result.gates if gate.never_open]
    always = [gate for gate in result.gates if gate.always_open]
    if result.gates:
        idle = f"{len(never)} were never open when offered, {len(always)} always"
        sentences.append(f"Of {len(result.gates)} options with conditions {idle}.")
    return sentences


def table_of(one: Simulated) -> Section:
    """The table of measures."""
    rows = [_measure_row(measure) for measure in measures(one.result)]
    body = render(__name__, "measures.html", rows=rows, note="Intervals are Wilson's, 95%, of shares of plays.")
    return Section("measures", "Measures", body)


def structure(one: Simulated) -> Section:
    """The profile of the world's structure."""
    rows = [_measure_row(measure) for measure in profile(one.found.engine.world)]
    note = "Aims are those by which authors of generated worlds polish them; a short world need not meet them."
    return Section("structure", "Structure", render(__name__, "measures.html", rows=rows, note=note))


def _measure_row(measure: Measure) -> dict[str, Any]:
    bounds = "" if measure.interval is None else " to ".join(measure.shown(bound) for bound in measure.interval)
    value = measure.shown(measure.value)
    met = {None: "", True: "met", False: "missed"}[measure.met]
    return {
        "name": measure.name.replace("_", " "), "value": value, "interval": bounds, "aim": measure.aim,
        "met": met, "meaning": measure.meaning,
    }  # fmt: skip


def course(one: Simulated) -> Section:
    """How the variables move, for those that move most."""
    figures = [_curve(one, place) for place in moving_most(one)]
    note = "Mean over the plays that come so far, with one standard deviation. Dashed: the bounds of the variable."
    body = render(__name__, "course.html", figures=figures, note=note, more=len(one.found.engine.names) - len(figures))
    return Section("course", "How its variables move", body)


def moving_most(one: Simulated) -> list[int]:
    """Places of the variables that move or spread most, in units of their bounds or of their own range."""
    if not one.found.course.counts:
        return []
    means, stds = one.found.course.means, one.found.course.stds
    reach = means.max(0) - means.min(0) + stds.max(0)
    for place, variable in enumerate(one.found.engine.world.variables.values()):
        width = variable.maximum - variable.minimum
        reach[place] /= width if 0 < width < float("inf") else max(abs(means[:, place]).max(), 1.0)
    ranked = sorted(range(len(reach)), key=lambda place: (-reach[place], place))
    return [place for place in ranked[:MOST_CURVES] if reach[place] > 0]


def _curve(one: Simulated, place: int) -> Figure:
    found, name = one.found, one.found.engine.names[place]
    # A handful of plays that go on longer than the others make a curve of noise.
    steps = [i for i, count in enumerate(found.course.counts) if count >= max(1, found.runs // 50)]
    means, stds = found.course.means[steps, place].tolist(), found.course.stds[steps, place].tolist()
    variable = found.engine.world.variables[name]
    reach = max(abs(value) for value in means) + max(stds)
    bounds = [(word, bound) for word, bound in (("minimum", variable.minimum), ("maximum", variable.maximum))]
    levels = [Level(word, bound, "plain") for word, bound in bounds if abs(bound) <= 2 * reach]
    line = Line(clip(name, 60), list(zip(map(float, steps), means, strict=True)), band=stds)
    return Figure(clip(name, 60), line_chart(clip(name, 60), [line], levels, Frame(height=150, x_label="step")))


def graph(one: Simulated) -> Section:
    """Where the plays went."""
    drawing = draw_plays(one.found, f"Where {one.found.runs} plays went") if one.found.visits else None
    left_out = len(one.found.visits) - min(len(one.found.visits), MOST_BOXES)
    never = len(one.found.engine.world.encounters) - len(one.found.visits)
    body = render(__name__, "play_graph.html", drawing=drawing, left_out=left_out, never=never)
    return Section("graph", "Where plays go", body)


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
    ends = [index for index in ranked if not scenes[index].options][:MOST_DRAWN_ENDINGS]
    kept = list(dict.fromkeys([first, *ends, *ranked]))[:MOST_BOXES]
    return sorted(kept, key=lambda index: (index != first, index))


def _box(found: Tally, index: int) -> Vertex:
    encounter = found.engine.world.encounters[index]
    name, share = encounter.title or encounter.id, found.visits[index] / found.runs
    ends = found.endings[encounter.id] / found.runs
    line = f"{percent(share)} of plays"
    tip = f"{clip(encounter.id, 60)}: {clip(encounter.text, 200)} ({line}, {percent(ends)} end here)"
    if encounter.options:
        return Vertex("encounter", name, line, tip)
    return Vertex("ending", name.removeprefix("Ending: "), line, tip)  # which the frame says


def _arrow(found: Tally, move: Move, start: int, end: int) -> Arrow:
    count, scenes = found.moves[move], found.engine.world.encounters
    tip = f"{clip(scenes[move[0]].id, 60)} to {clip(scenes[move[1]].id, 60)}: {count} times in {found.runs} plays"
    # At least a hair's breadth; a loop may be taken several times a play.
    return Arrow(start, end, False, tip, min(0.8 + 5.2 * count / found.runs, _WIDEST))


@dataclass(frozen=True, slots=True)
class GateRow:
    """A gated option with its rates, and what flipping it does."""

    rate: GateRate
    needs: str
    fate: str
    effect: GateEffect | None
    shift: Shift | None


def gates(one: Simulated) -> Section:
    """The options with conditions: how often they were open and taken, and what their gates are worth."""
    effects = {(effect.encounter, effect.option): effect for effect in one.effects}
    offered = sorted([rate for rate in one.result.gates if rate.seen], key=lambda rate: -rate.seen)
    rows = [_gate_row(one, rate, effects.get((rate.encounter, rate.option))) for rate in offered[:MOST_GATES]]
    unseen = len(one.result.gates) - len(offered)
    body = render(
        __name__, "gates.html", rows=rows, more=len(offered) - len(rows), unseen=unseen, flipped=bool(one.effects)
    )
    return Section("gates", "What its gates do", body)


def _gate_row(one: Simulated, rate: GateRate, effect: GateEffect | None) -> GateRow:
    option = one.found.engine.world.encounters[rate.index].options[rate.position]
    needs = clip(" and ".join(clip(describe(part), 120) for part in (*option.gates, *option.performable)[:4]), 240)
    fate = "always open" if rate.always_open else "never open" if rate.never_open else ""
    sure = [] if effect is None else [s for s in effect.shifts if s.change and not s.interval[0] <= 0 <= s.interval[1]]
    return GateRow(rate, needs, fate, effect, sure[0] if sure else None)


def play_it(one: Simulated) -> Section:
    """The world, to be played on the page."""
    plan: Markup | None = embedded(plan_json(one.found.engine))
    plan = plan if plan is not None and len(plan) <= LARGEST_PLAN and one.found.engine.world.encounters else None
    body = render(__name__, "play_it.html", plan=plan, nudge=one.found.engine.nudge)
    return Section("play", "Play it yourself", body, script() if plan is not None else "")


def issues(one: Simulated) -> Section:
    """What is odd in the file."""
    listed = list(dict.fromkeys([*one.issues, *one.result.issues]))
    body = render(__name__, "issues.html", issues=listed[:MOST_ISSUES], more=max(len(listed) - MOST_ISSUES, 0))
    return Section("issues", "What is odd in it", body)


def settings(one: Simulated) -> Section:
    """How the plays were made."""
    rows = [(name.replace("_", " "), clip(str(value), 300)) for name, value in one.settings.items()]
    return Section("settings", "How it was simulated", render(__name__, "simulation_settings.html", rows=rows))


SECTIONS = (endings, graph, course, gates, table_of, structure, play_it, issues, settings)
"""The page from top to bottom."""
