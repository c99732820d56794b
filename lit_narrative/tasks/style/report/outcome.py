"""The outcome of a style run: what reinforcement changed under both judges, and what it cost."""

from collections.abc import Iterator, Mapping, Sequence

from lit_narrative.report.charts import Dot, dot_chart
from lit_narrative.report.format import NONE, percent
from lit_narrative.report.intervals import Value, pooled
from lit_narrative.report.measures import every_measure, measure_groups, measure_rows, say_change
from lit_narrative.report.page import Figure, Key, Section, render
from lit_narrative.tasks.style.report.measures import GROUPS, MAIN
from lit_narrative.tasks.style.report.run import BASE, BEST_OF_N, GRPO, PROMPTING, SFT, StyleRun
from lit_narrative.tasks.style.report.summary import alarm

NAMES = {
    BASE: "base",
    PROMPTING: "base, sample in the prompt",
    BEST_OF_N: "best of n",
    SFT: "after supervised training",
    GRPO: "after reinforcement",
}
"""What the page calls the arms."""
JUDGES = {"judge_a": ("judge A", "sft"), "judge_b": ("judge B", "final")}
"""Judges: what the page calls them, and their tone."""
MAIN_MEASURES = every_measure(GROUPS, MAIN)


def headline(run: StyleRun) -> Section:
    """Say in a few sentences what was measured and what came of it."""
    body = render(__name__, "headline.html", sentences=[*sentences(run)], chart=_chart(run), several=len(run.seeds) > 1)
    return Section("outcome", "What came of it", body)


def sentences(run: StyleRun) -> Iterator[str]:
    """The outcome for someone who has not seen such a run, each figure with its interval, whichever way it went."""
    changes = run.changes()
    for name, (judge, _) in JUDGES.items():
        if said := _change(run, changes, name):
            seen = "by which training was rewarded" if name == "judge_a" else "which training never saw"
            yield f"Likeness to the author named, under {judge}, {seen}: {said}."
    match alarm(changes) if changes else None:
        case True:
            yield "Alarm: judge A rose and judge B did not. What was learned is what judge A looks for, and not style."
        case False:
            yield "No alarm: judge A did not rise alone."
    if said := _change(run, changes, "copied_span"):
        yield f"Longest span copied from the author's texts, in bits: {said}."
    if swap := pooled(run.of(GRPO if GRPO in run.arms else run.arms[-1]), "topic_swap"):
        sure = "above chance" if swap[1] and swap[1][0] > 0.5 else "not told from chance"
        yield f"Of one plot told in two authors' styles, the texts follow the author in {_share(swap)}: {sure} (50%)."
    for name in run.judges:
        found = run.examined(name)
        if unfit := next((judge for judge in found if not judge.fit), None):
            yield f"The judge '{name}' was not fit to be trained against: {unfit.why[0] if unfit.why else NONE}."


def _change(run: StyleRun, changes: Sequence[Mapping[str, Value]], name: str) -> str:
    """A figure before and after reinforcement, with the change; only that of one arm where there is no other."""
    before, after = (pooled(run.of(arm), name) for arm in (SFT, GRPO))
    return say_change(before, after, pooled(changes, name), "seeds" if len(changes) > 1 else "plots")


def _share(value: Value) -> str:
    bounds = f" (95% {percent(value[1][0])} to {percent(value[1][1])})" if value[1] else ""
    return percent(value[0]) + bounds


def _chart(run: StyleRun) -> Figure | None:
    """Scaled likeness of every arm under both judges on one axis."""
    rows = [(NAMES.get(arm, arm), _dots(run.of(arm))) for arm in run.arms]
    rows = [(name, dots) for name, dots in rows if dots]
    if not rows:
        return None
    values = [dot.value for _, dots in rows for dot in dots]
    bounds = (min(-0.2, *values), max(1.2, *values))
    chart = dot_chart("Scaled likeness", rows, bounds, gutter=150, mark=1, apart=6)
    keys = [Key(name, tone, "dot") for name, tone in JUDGES.values()]
    note = "0: as chunks of other authors. 1: as the author's own held-out chunks. Bars are 95% intervals."
    return Figure("Likeness to the author named, scaled", chart, note, keys)


def _dots(seeds: Sequence[Mapping[str, Value]]) -> list[Dot]:
    found = {judge: pooled(seeds, f"{judge}_scaled") for judge in JUDGES}
    return [Dot(JUDGES[judge][0], one[0], JUDGES[judge][1], one[1]) for judge, one in found.items() if one]


# --- tables -----------------------------------------------------------------------------------------------------------


def tables(run: StyleRun) -> Section:
    """List every measure of every arm, with intervals, and the main ones of each author."""
    figures = {arm: run.of(arm) for arm in run.arms}
    authors = {author: _of_author(run, author) for author in _authors(run)}
    body = render(
        __name__,
        "tables.html",
        arms=[NAMES.get(arm, arm.replace("_", " ")) for arm in run.arms],
        groups=measure_groups(GROUPS, [*figures.values()]),
        authors=[(author, [*measure_rows(MAIN_MEASURES, columns)]) for author, columns in authors.items()],
        several=len(run.seeds) > 1,
    )
    return Section("figures", "All figures", body)


def _authors(run: StyleRun) -> list[str]:
    return [*dict.fromkeys(author for seed in run.seeds for arm in seed.arms.values() for author in arm.authors)]


def _of_author(run: StyleRun, author: str) -> list[list[Mapping[str, Value]]]:
    return [
        [seed.arms[arm].authors[author] for seed in run.seeds if arm in seed.arms and author in seed.arms[arm].authors]
        for arm in run.arms
    ]


def seed_table(run: StyleRun) -> Section | None:
    """List the main figures seed by seed; None of a single seed, whose figures stand above."""
    if len(run.seeds) < 2:
        return None
    rows = [
        (
            NAMES.get(arm, arm),
            seed.name,
            [one.cell(seed.arms[arm].figures.get(name)) for name, one in MAIN_MEASURES.items()],
        )
        for arm in run.arms
        for seed in run.seeds
        if arm in seed.arms
    ]
    titles = [measure.title for measure in MAIN_MEASURES.values()]
    return Section("seeds", "Seed by seed", render(__name__, "seeds.html", rows=rows, titles=titles))
