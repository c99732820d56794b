"""The report of a run of the card game."""

import shlex
from collections.abc import Callable, Sequence

from lit_narrative.report.format import clip
from lit_narrative.report.page import Section, fill_page, folder_name, render
from lit_narrative.report.run_folder import COMMAND, CONFIG, versions
from lit_narrative.tasks.cards.report.changes import rivals
from lit_narrative.tasks.cards.report.circuits import circuits
from lit_narrative.tasks.cards.report.outcome import accuracies, changes, headline, tone
from lit_narrative.tasks.cards.report.reasons import answers, reasons
from lit_narrative.tasks.cards.report.run import CardsRun


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


def reproduce(run: CardsRun) -> Section:
    """Give the commands, the seeds, the versions and the settings."""
    first = run.seeds[0].policies.values()
    configs = [(policy.name, clip(policy.training.config, CONFIG)) for policy in first if policy.training]
    body = render(
        __name__,
        "reproduce.html",
        out=clip(shlex.quote(str(run.out)), 200),
        command=clip(run.command, COMMAND),
        configs=configs,
        versions=versions(),
        seconds=run.seconds,
        total=sum(run.seconds.values()),
    )
    return Section("reproduce", "How to repeat this", body)


SECTIONS: Sequence[Callable[[CardsRun], Section]] = (
    headline,
    accuracies,
    changes,
    rivals,
    reasons,
    answers,
    budgets,
    circuits,
    reproduce,
)
"""The page from top to bottom."""


def build_cards_page(run: CardsRun) -> str:
    """Return the page's HTML."""
    return fill_page(folder_name(run.out), render(__name__, "lead.html"), [section(run) for section in SECTIONS])
