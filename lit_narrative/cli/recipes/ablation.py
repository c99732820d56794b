"""The page of an ablation: each arm of a sweep beside the one on trial and beside the one without, and the answer.

Differences are paired: an arm's run of a seed less the other arm's of the same seed, on the same prompts. Each has two
intervals: over seeds (Student's t over the seeds' differences), by which the answer is given, and, where single samples
have the score, over prompts (bootstrap of the prompts' differences, averaged over seeds).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from lit_narrative.cli.recipes.results import DONE
from lit_narrative.cli.recipes.statistics import Estimate, Group, difference
from lit_narrative.cli.recipes.sweep import Ablation, Question
from lit_narrative.report.format import interval, number, signed
from lit_narrative.report.page import Section, fill_page, render

ABLATION_PAGE = "ablation.html"
HELPS, NO_HELP, UNKNOWN = "helps", "does not help", "cannot be told"


def answer(difference: Estimate | None, margin: float) -> str:
    """Whether something helps, by the interval over seeds of what it adds.

    It helps if the whole interval lies above 0, and does not if the whole interval lies below the smallest gain worth
    having; otherwise, or of a single seed, it cannot be told.

    Args:
        difference: of a metric of which more is better.
        margin: that gain, above 0.
    """
    if difference is None or difference.seeds is None:
        return UNKNOWN
    low, high = difference.seeds
    return HELPS if low > 0 else NO_HELP if high < margin else UNKNOWN


def ablation_record(ablation: Ablation, groups: Sequence[Group]) -> dict[str, Any]:
    """``ablation.json``: means of every arm, its differences from the two others, and the answers.

    Args:
        ablation: what is asked.
        groups: of the sweep, one for each arm.
    """
    of_arm = {name: group for group in groups for name in group.values[ablation.axis]}
    base, metrics = of_arm[ablation.without], list(ablation.margins)
    questions = []
    for question in ablation.questions:
        ours = of_arm[question.ours]
        arms = {}
        for name in dict.fromkeys([question.ours, ablation.without, *question.controls]):
            group = of_arm[name]
            arms[name] = {
                "runs": {"done": sum(row.status == DONE for row in group.rows), "of": len(group.rows)},
                "mean": {metric: _plain(group.estimates.get(metric)) for metric in metrics},
                "minus_ours": {metric: _plain(difference(group, ours, metric)) for metric in metrics},
                "minus_without": {metric: _plain(difference(group, base, metric)) for metric in metrics},
            }
        answers = {m: answer(difference(ours, base, m), margin) for m, margin in ablation.margins.items()}
        made = {"about": question.about, "ours": question.ours, "without": ablation.without, "arms": arms}
        made |= {"controls": list(question.controls), "answers": answers}
        changes = {metric: difference(ours, base, metric) for metric in metrics}
        beside = [_figure(name, changes[name], answers[name]) for name in metrics[1:]]
        made |= {"sentence": _sentence(ablation, question, of_arm, answers), "beside": beside}
        questions.append(made)
    pairing = "same seed and same prompts; seeds: Student's t over seeds; prompts: bootstrap, seeds averaged"
    return {"margins": dict(ablation.margins), "intervals": f"95 %, paired: {pairing}", "questions": questions}


def _plain(estimate: Estimate | None) -> dict[str, Any] | None:
    return None if estimate is None else asdict(estimate)


def _sentence(ablation: Ablation, question: Question, of_arm: Mapping[str, Group], answers: Mapping[str, str]) -> str:
    """The answer to a question, by the first metric, with the figure that gives it."""
    ours, base = of_arm[question.ours], of_arm[ablation.without]
    first = next(iter(ablation.margins))
    words = {
        HELPS: f"{question.about} helps",
        NO_HELP: f"{question.about} does not help",
        UNKNOWN: f"whether {question.about} helps cannot be told",
    }[answers[first]]
    figure = _figure(first, difference(ours, base, first))
    changes = {name: difference(ours, of_arm[name], first) for name in question.controls}
    known = [name for name, change in changes.items() if change is not None]
    above = [name for name in known if answer(changes[name], 0.0) == HELPS]
    named = f" ({', '.join(above)})" if above else ""
    beyond = f"; it is above {len(above)} of {len(known)} controls in {first}{named}" if known else ""
    sentence = f"{words}: against {ablation.without}, {figure}{beyond}."
    return sentence[0].upper() + sentence[1:]


def _figure(name: str, change: Estimate | None, answered: str = "") -> str:
    if change is None:
        return f"{name} was not measured"
    told = "" if change.seeds is None else f" ({interval(change.seeds)}, {change.count} seeds)"
    return f"{name} {signed(change.mean)}{told}" + (f": {answered}" if answered else "")


def ablation_text(record: Mapping[str, Any]) -> str:
    """The record for a terminal: of each question a table a metric, then the answer."""
    lines = []
    for question in record["questions"]:
        ours, without = question["ours"], question["without"]
        lines.append(f"\n{question['about']}: means, and differences with 95 % intervals over seeds")
        rows = [["metric", "arm", "runs", "mean", f"less {ours}", f"less {without}"]]
        for metric in record["margins"]:
            for name, arm in question["arms"].items():
                changes = (_change(arm[other][metric]) for other in ("minus_ours", "minus_without"))
                runs = f"{arm['runs']['done']} of {arm['runs']['of']}"
                rows.append([metric, name, runs, _mean(arm["mean"][metric]), *changes])
        widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
        lines += ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        lines.append(f"answer: {question['sentence']}")
        lines += [f"beside it: {'; '.join(question['beside'])}"] if question["beside"] else []
    return "\n".join(lines)


def _mean(estimate: Mapping[str, Any] | None) -> str:
    return number(None if estimate is None else estimate["mean"])


def _change(estimate: Mapping[str, Any] | None) -> str:
    if estimate is None:
        return "–"
    ends = estimate["seeds"]
    return signed(estimate["mean"]) + (f" [{number(ends[0])}, {number(ends[1])}]" if ends else "")


def build_ablation_page(name: str, record: Mapping[str, Any]) -> str:
    """The page as HTML that needs no other file."""
    sections = [
        Section(
            f"question{place}", question["about"], render(__name__, "ablation.html", question=question, record=record)
        )
        for place, question in enumerate(record["questions"], 1)
    ]
    lead = render(__name__, "ablation_lead.html", record=record)
    return fill_page(f"{name}: what helps", lead, sections, "report of an ablation")
