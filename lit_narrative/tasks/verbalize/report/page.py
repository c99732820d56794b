"""The report of a verbalize run: its sections, and worked examples of what the actor says of test positions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lit_narrative.report.page import Report, Section, render, reproduce, settings
from lit_narrative.tasks.verbalize.report.outcome import headline, prefixes, seed_table, tables
from lit_narrative.tasks.verbalize.report.run import BASE, FINAL, Actor, Explained, VerbalizeRun, read_verbalize
from lit_narrative.tasks.verbalize.report.summary import summarise

_SHOWN = 8
_CONTEXT = 400  # characters of the source before the marked word


def make_report(folder: Path) -> Report:
    """Report on the folder of a recipe that puts activations into words.

    Raises:
        UserError: there is no test in the folder, or a file is not what it should be.
    """
    return report_on(read_verbalize(folder))


def report_on(run: VerbalizeRun) -> Report:
    """Build the page's sections and the summary; of the settings, those of the first seed are shown."""
    made = [headline(run), examples(run), tables(run), prefixes(run), seed_table(run)]
    prefix, actors = run.folder.seeds[0].prefix, run.seeds[0].actors.values()
    configs = {prefix + actor.name: actor.config for actor in actors if actor.config is not None}
    without = [prefix + actor.name for actor in actors if actor.config is None]
    ending = [settings(configs, without), reproduce(run.folder, list(configs))]
    sections = [*(section for section in made if section is not None), *ending]
    return Report(render(__name__, "lead.html"), sections, summarise(run))


def examples(run: VerbalizeRun) -> Section:
    """Show positions of the test set, spread over the whole range of FVE, under the first seed's actors."""
    seed = run.seeds[0]
    actors = [seed.actors[name] for name in (BASE, FINAL) if name in seed.actors] or [*seed.actors.values()][:1]
    rows = [_example(actors, number) for number in chosen(actors[-1].rows)]
    body = render(__name__, "examples.html", rows=rows, seed=seed.name, several=len(run.seeds) > 1)
    return Section("examples", "Worked examples", body)


def chosen(rows: Sequence[Explained], count: int = _SHOWN) -> list[int]:
    """Rows at even steps of the order by FVE, from worst to best: not the ones that look well."""
    order = sorted(range(len(rows)), key=lambda number: (rows[number].fve is not None, rows[number].fve or 0.0, number))
    shown = min(count, len(order))
    return [order[round(step * (len(order) - 1) / max(shown - 1, 1))] for step in range(shown)]


def _example(actors: Sequence[Actor], number: int) -> dict[str, Any]:
    first = actors[0].rows[number]
    before, word = marked(first.source)
    said = [
        {"name": actor.name, "row": row, "failed": row.explanation is None}
        for actor in actors
        for row in [actor.rows[number]]
    ]
    return {"before": before, "word": word, "teacher": first.teacher, "said": said}


def marked(source: str) -> tuple[str, str]:
    """The text before the last word, cut at its beginning, and that word with what stands behind it."""
    stripped = source.rstrip()
    start = max(stripped.rfind(" "), stripped.rfind("\n")) + 1
    before = source[:start]
    return ("…" + before[-_CONTEXT:] if len(before) > _CONTEXT else before), source[start:]
