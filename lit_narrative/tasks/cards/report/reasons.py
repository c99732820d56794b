"""Reasons of wrong answers: another rule's answer, a broken scratchpad, no answer; and some answers as they came."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from lit_narrative.report.format import percent
from lit_narrative.report.page import Section, render
from lit_narrative.tasks.cards.report.outcome import mean, tone
from lit_narrative.tasks.cards.report.run import REFERENCE_SPLIT, CardsRun, Scores, SeedRun, title


def reasons(run: CardsRun) -> Section:
    """List what each policy does where it is wrong."""
    groups = [
        {"title": title(split), "rows": [_row(run, name, split) for name in run.policies if run.scores(name, split)]}
        for split in run.sets
    ]
    body = render(__name__, "reasons.html", groups=groups, several=len(run.seeds) > 1)
    return Section("reasons", "Why the answers are wrong", body)


def _row(run: CardsRun, name: str, split: str) -> dict[str, Any]:
    scores = [one for _, one in run.scores(name, split)]
    return {
        "name": name,
        "tone": tone(name),
        "trace": mean([one.trace_exact for one in scores]),
        "valid": mean([one.format_validity for one in scores]),
        "nonzero": mean([one.accuracy_nonzero for one in scores]),
        "zero": mean([one.answered_zero for one in scores]),
        "calibration": mean([one.calibration_error for one in scores]),
        "substitution": "" if split == REFERENCE_SPLIT else substituted(scores),
    }


def substituted(scores: Sequence[Scores]) -> str:
    """The known rule whose answers are given most often in place of the right ones, and how often."""
    rules = list(dict.fromkeys(rule for one in scores for rule in one.substitution))
    shares = {rule: fmean(one.substitution[rule] for one in scores if rule in one.substitution) for rule in rules}
    if not shares:
        return ""
    # The first of equals, in the order of the file, so that the page does not depend on hashing.
    rule = max(shares, key=shares.__getitem__)
    return f"{percent(shares[rule])} as {rule}"


def answers(run: CardsRun) -> Section:
    """Show, for each set, the first prompt and the first on which the policies disagree, under the first seed."""
    seed = run.seeds[0]
    groups = [{"title": title(split), "shown": choose(seed, split)} for split in run.sets]
    names = [{"name": name, "tone": tone(name)} for name in seed.policies]
    body = render(__name__, "answers.html", groups=groups, policies=names, seed=seed.name if len(run.seeds) > 1 else "")
    return Section("answers", "Some answers", body)


def choose(seed: SeedRun, split: str) -> list[dict[str, Any]]:
    """Pick prompts of a set, each with the answer of every policy that was tested on it (None of the others)."""
    tested = [policy.answers[split] for policy in seed.policies.values() if split in policy.answers]
    if not tested:
        return []
    # One set of marks a prompt: two members mean that some policies are right and some wrong.
    marks = [{answers[index].correct for answers in tested} for index in range(len(tested[0]))]
    differing = [index for index, mark in enumerate(marks) if index and len(mark) > 1]
    picked = [("the first", 0), *(("the first they disagree on", index) for index in differing[:1])]
    return [
        {
            "why": why,
            "prompt": " · ".join(line for line in tested[0][index].prompt.splitlines() if line),
            "expected": tested[0][index].expected,
            "answers": [policy.answers[split][index] if split in policy.answers else None
                        for policy in seed.policies.values()],
        }
        for why, index in picked
    ]  # fmt: skip
