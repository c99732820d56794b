"""Texts of all arms side by side, and the words that each uses too often."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lit_narrative.report.format import number
from lit_narrative.report.page import Section, render
from lit_narrative.tasks.style.report.outcome import NAMES
from lit_narrative.tasks.style.report.run import Arm, StyleRun

_SHOWN = 4
_PHRASES = 10


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
