"""The outcome of a verbalize run: what reinforcement changed, beside floors, ceilings and controls."""

from collections.abc import Iterator, Mapping, Sequence

from lit_narrative.report.charts import Dot, Frame, Line, dot_chart, line_chart
from lit_narrative.report.intervals import Value, pooled
from lit_narrative.report.measures import every_measure, measure_groups, say_change, with_interval
from lit_narrative.report.page import Figure, Key, Section, render
from lit_narrative.tasks.verbalize.evaluation.controls import SEPARATE
from lit_narrative.tasks.verbalize.evaluation.readings import PREFIXES
from lit_narrative.tasks.verbalize.report.measures import CONTROLS, FROZEN, FVE, GROUPS
from lit_narrative.tasks.verbalize.report.run import BASE, FINAL, VerbalizeRun
from lit_narrative.tasks.verbalize.report.summary import changes

NAMES = {BASE: "after supervised training", FINAL: "after reinforcement"}
TONES = {BASE: "sft", FINAL: "final"}
CRITICS = {"": "co-trained critic", FROZEN: "frozen critic"}
"""Critics by what stands behind the names of their figures."""


def headline(run: VerbalizeRun) -> Section:
    """Say in a few sentences what was measured and what came of it."""
    body = render(__name__, "headline.html", sentences=[*sentences(run)], chart=_chart(run), several=len(run.seeds) > 1)
    return Section("outcome", "What came of it", body)


def sentences(run: VerbalizeRun) -> Iterator[str]:
    """The outcome for someone who has not seen such a run, each figure with its interval, whichever way it went."""
    final = run.actors[0] if FINAL not in run.actors else FINAL
    figures = [*run.of(final).values()]
    for suffix, critic in CRITICS.items():
        if said := _change(run, f"fve{suffix}"):
            yield f"Fraction of variance explained on held-out documents, under the {critic}: {said}."
    if said := _change(run, "claims_precision"):
        yield f"Share of an explanation's claims that are so: {said}."
    if gain := pooled(figures, "privileged_gain"):
        yield (
            f"Privileged gain, what explanations owe to the activation: {with_interval(gain)}: "
            f"{_reading(gain, 'the best control knows less', 'a control that never sees the activation knows as much')}"
        )
    if match := pooled(figures, "position_match"):
        chance = "above the chance of 20%" if match[1] and match[1][0] > 0.2 else "not told from the chance of 20%"
        yield f"An explanation finds its own position among five of its document: {with_interval(match)}, {chance}."
    if shift := pooled(figures, "causal_shift"):
        said = _reading(shift, "the subject follows the edit", "not told from no effect")
        yield f"A word edited in the explanation moves the subject's next token by {with_interval(shift)} nats: {said}"


def _change(run: VerbalizeRun, name: str) -> str:
    """A figure before and after reinforcement, with the change; only that of one actor where there is no other."""
    before, after = (pooled([*run.of(actor).values()], name) for actor in (BASE, FINAL))
    return say_change(before, after, pooled(changes(run), name), "seeds")


def _reading(value: Value, above: str, otherwise: str) -> str:
    return f"{above}." if value[1] and value[1][0] > 0 else f"{otherwise}."


def _chart(run: VerbalizeRun) -> Figure | None:
    """FVE of actors, references and controls on one axis, under both critics."""
    final = run.of(FINAL if FINAL in run.actors else run.actors[0])
    rows: list[tuple[str, list[Dot]]] = []
    for actor in (BASE, FINAL):
        if actor in run.actors:
            rows.append((NAMES[actor], _dots([*run.of(actor).values()], "fve")))
    for name, measure in {**FVE, **CONTROLS}.items():
        if not name.startswith("fve") and not name.endswith(FROZEN) and name != "privileged_gain":
            rows.append((measure.title, _dots([*final.values()], name)))
    rows = [(name, dots) for name, dots in rows if dots]
    if not rows:
        return None
    values = [dot.value for _, dots in rows for dot in dots]
    chart = dot_chart("Fraction of variance explained", rows, (min(-1.0, *values), 1.0), gutter=150, mark=0)
    keys = [Key("co-trained critic", "final", "dot"), Key("frozen critic", "sft", "dot")]
    note = "References and controls are those of the last actor. Bars are 95% intervals."
    return Figure("Fraction of variance explained", chart, note, keys)


def _dots(figures: Sequence[Mapping[str, Value]], name: str) -> list[Dot]:
    tones = {"": "final", FROZEN: "sft"}
    found = {suffix: pooled(figures, name + suffix) for suffix in CRITICS}
    return [Dot(CRITICS[suffix], one[0], tones[suffix], one[1]) for suffix, one in found.items() if one]


def tables(run: VerbalizeRun) -> Section:
    """List every measure of every actor, with intervals."""
    figures = {actor: [*run.of(actor).values()] for actor in run.actors}
    body = render(
        __name__,
        "tables.html",
        actors=[NAMES.get(actor, actor.replace("_", " ")) for actor in run.actors],
        groups=measure_groups(GROUPS, [*figures.values()]),
        several=len(run.seeds) > 1,
    )
    return Section("figures", "All figures", body)


def prefixes(run: VerbalizeRun) -> Section | None:
    """Draw the FVE of the first words of explanations; None where nothing was measured."""
    lines = []
    for actor in run.actors:
        if actor in SEPARATE:
            continue
        seeds = [*run.of(actor).values()]
        found = [(count, pooled(seeds, f"fve_first_{count}")) for count in PREFIXES]
        points = [(float(count), value[0]) for count, value in found if value]
        if points:
            lines.append(Line(NAMES.get(actor, actor), tuple(points), TONES.get(actor, "other"), marked=True))
    if not lines:
        return None
    chart = line_chart("FVE of the first words", lines, (), Frame(x_label="words of the explanation"))
    keys = [Key(line.name, line.tone) for line in lines]
    figure = Figure("Prefix curve", chart, "What the co-trained critic makes of an explanation's first words.", keys)
    return Section("prefixes", "How early it is said", render(__name__, "prefixes.html", curve=figure))


def seed_table(run: VerbalizeRun) -> Section | None:
    """List the main figures of the final actor under every seed; None of a single seed."""
    if len(run.seeds) < 2:
        return None
    names = (
        "fve",
        "fve_frozen",
        "privileged_gain",
        "claims_precision",
        "claims_recall",
        "position_match",
        "causal_shift",
    )
    measures = every_measure(GROUPS, names)
    rows = [
        (actor_name, seed.name, [one.cell(seed.figures(actor).get(name)) for name, one in measures.items()])
        for actor, actor_name in NAMES.items()
        for seed in run.seeds
        if actor in seed.actors
    ]
    titles = [measure.title for measure in measures.values()]
    return Section("seeds", "Seed by seed", render(__name__, "seeds.html", rows=rows, titles=titles))
