"""The report of a style run: its sections, texts of all arms side by side, and the words that each uses too often."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lit_narrative.report.format import number
from lit_narrative.report.page import Report, Section, render, reproduce, settings
from lit_narrative.tasks.style.report.outcome import NAMES, headline, seed_table, tables
from lit_narrative.tasks.style.report.run import Arm, StyleRun, read_style
from lit_narrative.tasks.style.report.summary import summarise
from lit_narrative.tasks.style.report.training import along, judges, training

_SHOWN = 4
_PHRASES = 10


def make_report(folder: Path) -> Report:
    """Report on the folder of a recipe that teaches an author's style.

    Raises:
        UserError: there is no test in the folder, or a file is not what it should be.
    """
    return report_on(read_style(folder))


def report_on(run: StyleRun) -> Report:
    """Build the page's sections and the summary; of the settings, those of the first seed are shown."""
    made = [
        headline(run),
        side_by_side(run),
        judges(run),
        tables(run),
        training(run),
        along(run),
        over_used(run),
        seed_table(run),
    ]
    prefix, arms = run.folder.seeds[0].prefix, run.seeds[0].arms.values()
    configs = {prefix + arm.name: arm.config for arm in arms if arm.config is not None}
    without = [prefix + arm.name for arm in arms if arm.config is None]
    ending = [settings(configs, without), reproduce(run.folder, list(configs))]
    sections = [*(section for section in made if section is not None), *ending]
    return Report(render(__name__, "lead.html"), sections, summarise(run))


def side_by_side(run: StyleRun) -> Section:
    """Show texts of all arms to the same prompts, at even steps of the last arm's likeness: good and bad."""
    seed = run.seeds[0]
    arms = [seed.arms[name] for name in run.arms if name in seed.arms]
    prompts = [_prompt(arms, row) for row in chosen(arms[-1])]
    body = render(__name__, "examples.html", prompts=prompts, seed=seed.name, several=len(run.seeds) > 1)
    return Section("examples", "The same prompts, arm by arm", body)


def chosen(arm: Arm, count: int = _SHOWN) -> list[int]:
    """Rows at even steps of the order by likeness under the last judge, from worst to best."""
    key = next((name for name in ("judge_b", "judge_a") if name in arm.columns), None)
    values = np.zeros(len(arm.texts)) if key is None else np.nan_to_num(arm.columns[key])
    order = np.argsort(values, kind="stable").tolist()
    shown = min(count, len(order))
    return [order[round(step * (len(order) - 1) / max(shown - 1, 1))] for step in range(shown)]


def _prompt(arms: Sequence[Arm], row: int) -> dict[str, Any]:
    asked = arms[0].texts[row]
    said = [
        {
            "arm": NAMES.get(arm.name, arm.name),
            "text": arm.texts[row]["text"],
            "figures": [_figure(arm, name, row) for name in ("judge_a", "judge_b", "copied_span")],
        }
        for arm in arms
    ]
    return {"author": asked["author"], "plot": asked["plot"], "said": said}


def _figure(arm: Arm, name: str, row: int) -> str:
    column = arm.columns.get(name)
    return number(None if column is None or np.isnan(column[row]) else float(column[row]))


def over_used(run: StyleRun) -> Section | None:
    """List the phrases that each arm of the first seed uses more often than people do; None where there are none."""
    seed = run.seeds[0]
    rows = [(NAMES.get(name, name), arm.over_used[:_PHRASES]) for name, arm in seed.arms.items() if arm.over_used]
    if not rows:
        return None
    return Section("slop", "Over-used words and phrases", render(__name__, "over_used.html", rows=rows))
