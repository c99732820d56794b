"""The report of a run of the card game."""

from collections.abc import Callable, Sequence
from pathlib import Path

from lit_narrative.report.page import Report, Section, render, reproduce, settings
from lit_narrative.report.run_folder import read_run_folder
from lit_narrative.tasks.cards.report.changes import baselines
from lit_narrative.tasks.cards.report.circuits import circuits, compare_circuits
from lit_narrative.tasks.cards.report.outcome import accuracies, changes, headline, tone
from lit_narrative.tasks.cards.report.reader import TESTS, read_cards
from lit_narrative.tasks.cards.report.reasons import answers, reasons
from lit_narrative.tasks.cards.report.run import CardsRun
from lit_narrative.tasks.cards.report.summary import summarise_cards


def budgets(run: CardsRun) -> Section:
    """List optimizer steps, sequences and seconds of each policy's training."""
    rows = [
        {"seed": seed.name, "name": name, "tone": tone(name), "training": policy.training}
        for name in run.policies
        for seed in run.seeds
        for policy in [seed.policies.get(name)]
        if policy is not None
    ]
    several = len(run.seeds) > 1
    return Section("budgets", "What it cost", render(__name__, "budgets.html", rows=rows, several=several))


SECTIONS: Sequence[Callable[[CardsRun], Section]] = (
    headline,
    accuracies,
    changes,
    baselines,
    reasons,
    answers,
    budgets,
    circuits,
)
"""The page from top to bottom, without what every page ends with."""


def report_on(run: CardsRun) -> Report:
    """Build the page's sections and the summary; of the settings, those of the first seed are shown."""
    prefix, policies = run.folder.seeds[0].prefix, run.seeds[0].policies.values()
    configs = {prefix + policy.name: policy.training.config for policy in policies if policy.training}
    ending = [settings(configs), reproduce(run.folder, list(configs))]
    sections = [*(section(run) for section in SECTIONS), *ending]
    return Report(render(__name__, "lead.html"), sections, summarise_cards(run))


def make_report(folder: Path) -> Report:
    """Report on the folder of a recipe of the card game.

    Each arm's circuits are compared with those of the base as well: ``comparison.html`` in the arm's folder.

    Raises:
        UserError: there is no test in the folder, or a file is not what it should be.
    """
    for seed in read_run_folder(folder, TESTS).seeds:
        compare_circuits(seed.path)  # before the jobs are read: the page links to all pages that it finds
    return report_on(read_cards(folder))
