"""The judges' examinations, and how figures went: over training, and along the texts."""

from collections.abc import Iterator
from typing import Any

from lit_narrative.report.charts import Frame, Line, line_chart
from lit_narrative.report.intervals import pooled
from lit_narrative.report.page import Figure, Key, Section, render
from lit_narrative.tasks.style.report.measures import EXAMINED
from lit_narrative.tasks.style.report.outcome import JUDGES, NAMES
from lit_narrative.tasks.style.report.run import AUTHORS, BOOKS, MEASURES, StyleRun

CURVES = {
    ("judge_a", "judge_b"): ("Likeness to the author", "Where A rises and B falls, judge A is being fooled."),
    ("copied_span",): ("Longest copied span, bits", "Quoting the author is the easiest way to sound like one."),
    ("content", "completeness"): ("Content and completeness", "What style may be bought with."),
    ("diversity",): ("Diversity", "A fall means that all texts come to be one."),
    ("slop", "repetition"): ("Slop and repetition", "A rise means that the same words come again and again."),
}
"""Figures at validation, and what their curve tells."""
TONES = ("sft", "final")
SETS = {BOOKS: "other books", AUTHORS: "unknown authors"}


def judges(run: StyleRun) -> Section | None:
    """Show what each judge's examination found, beside measures that need no training; None without judges."""
    found = [_judge(run, name) for name in run.judges]
    if not found:
        return None
    body = render(__name__, "judges.html", judges=found, titles=[measure.title for measure in EXAMINED.values()])
    return Section("judges", "What the judges are worth", body)


def _judge(run: StyleRun, name: str) -> dict[str, Any]:
    examined = run.examined(name)
    rows = []
    for pairs, title in SETS.items():
        sets = [judge.sets[pairs] for judge in examined if pairs in judge.sets]
        for measure in MEASURES if sets else ():
            figures = [found[measure] for found in sets if measure in found]
            cells = [one.cell(pooled(figures, key)) for key, one in EXAMINED.items()]
            rows.append((f"{measure.replace('_', ' ')}, {title}", cells))
    fit = sum(judge.fit for judge in examined)
    return {"name": name, "rows": rows, "fit": fit, "seeds": len(examined), "why": examined[0].why}


def training(run: StyleRun) -> Section | None:
    """Draw figures of validation over the steps of the last arm's training; None where it logged none."""
    figures = [figure for names, (title, note) in CURVES.items() if (figure := _curves(run, names, title, note))]
    return Section("training", "Over training", render(__name__, "training.html", figures=figures)) if figures else None


def _curves(run: StyleRun, names: tuple[str, ...], title: str, note: str) -> Figure | None:
    """One chart of the first seed that logged these figures."""
    for seed in run.seeds:
        for arm in reversed([*seed.arms.values()]):
            known = [(name, arm.curves.get(f"val/{name}", ())) for name in names]
            lines = [
                Line(_name(name), points, tone, marked=True)
                for (name, points), tone in zip(known, TONES, strict=False)
                if len(points) > 1
            ]
            if lines:
                keys = [Key(line.name, line.tone) for line in lines]
                said = f"{note} {NAMES.get(arm.name, arm.name).capitalize()}, {seed.name}."
                return Figure(title, line_chart(title, lines, (), Frame(300, 140, x_label="step")), said, keys)
    return None


def _name(figure: str) -> str:
    return JUDGES[figure][0] if figure in JUDGES else figure.replace("_", " ")


def along(run: StyleRun) -> Section | None:
    """Draw likeness window by window; None where texts are of one window."""
    figures = [figure for judge in JUDGES if (figure := _windows(run, judge))]
    return Section("along", "Along the text", render(__name__, "training.html", figures=figures)) if figures else None


def _windows(run: StyleRun, judge: str) -> Figure | None:
    lines = [line for place, arm in enumerate(run.arms) if (line := _along(run, arm, judge, place))]
    if not lines:
        return None
    title = f"Likeness by window, {JUDGES[judge][0]}"
    keys = [Key(line.name, line.tone) for line in lines]
    note = "Of the texts that have such a window. A fall means that the style is lost on the way."
    return Figure(title, line_chart(title, lines, (), Frame(300, 140, x_label="window")), note, keys)


def _along(run: StyleRun, arm: str, judge: str, place: int) -> Line | None:
    points = tuple(_points(run, arm, f"{judge}_window_"))
    tone = ("other", "plain", "corpus", "sft", "final")[place % 5]
    return Line(NAMES.get(arm, arm), points, tone, marked=True) if len(points) > 1 else None


def _points(run: StyleRun, arm: str, prefix: str) -> Iterator[tuple[float, float]]:
    place = 1
    while value := pooled(run.of(arm), f"{prefix}{place}"):
        yield float(place), value[0]
        place += 1
