"""What the policies of a cards run cost, with what they were made, and how to make them again."""

import shlex

from lit_narrative.report.cards_outcome import tone
from lit_narrative.report.cards_run import CardsRun
from lit_narrative.report.section import Section, render
from lit_narrative.report.settings import COMMAND, CONFIG, versions
from lit_narrative.report.wording import clip


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
    return Section("budgets", "What it cost", render("cards_budgets.html", rows=rows, several=several))


def reproduce(run: CardsRun) -> Section:
    """Give the commands, the seeds, the versions and the settings."""
    first = run.seeds[0].policies.values()
    configs = [(policy.name, clip(policy.training.config, CONFIG)) for policy in first if policy.training]
    body = render(
        "cards_reproduce.html",
        out=clip(shlex.quote(str(run.out)), 200),
        command=clip(run.command, COMMAND),
        configs=configs,
        versions=versions(),
        seconds=run.seconds,
        total=sum(run.seconds.values()),
    )
    return Section("reproduce", "How to repeat this", body)
