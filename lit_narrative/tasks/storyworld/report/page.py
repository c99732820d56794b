"""FIXME."""

import shlex
from collections.abc import Callable, Sequence

from lit_narrative.report.format import clip
from lit_narrative.report.page import Section, fill_page, folder_name, render
from lit_narrative.report.run_folder import COMMAND, CONFIG, versions
from lit_narrative.tasks.storyworld.report.features import sae
from lit_narrative.tasks.storyworld.report.outcome import components, headline, honesty, variety
from lit_narrative.tasks.storyworld.report.run import Run
from lit_narrative.tasks.storyworld.report.samples import worlds
from lit_narrative.tasks.storyworld.report.training import training, warm_start


def settings(run: Run) -> Section:
    """Print each job's configuration and the versions in use."""
    configs = [(job.name, clip(job.config, CONFIG)) for job in run.jobs.values() if job.config is not None]
    without = [job.name for job in run.jobs.values() if job.config is None]
    body = render(__name__, "settings.html", configs=configs, without=without, versions=versions(), jobs=list(run.jobs))
    return Section("settings", "Settings and versions", body)


def reproduce(run: Run) -> Section:
    """Give the commands that make the run and this page again."""
    seeds = {test.outcome.seed for test in (run.before, run.after)} - {None}
    body = render(
        __name__,
        "reproduce.html",
        out=clip(shlex.quote(str(run.out)), 200),
        command=clip(run.command, COMMAND),
        jobs=list(run.jobs),
        seeds=sorted(map(str, seeds)),
        seconds=run.seconds,
        total=sum(run.seconds.values()),
    )
    return Section("reproduce", "How to repeat this", body)


SECTIONS: Sequence[Callable[[Run], Section]] = (
    headline,
    honesty,
    components,
    training,
    variety,
    worlds,
    sae,
    warm_start,
    settings,
    reproduce,
)
"""The page from top to bottom."""


def build_page(run: Run, sections: Sequence[Callable[[Run], Section]] = SECTIONS) -> str:
    """Return the HTML of a storyworld run's page."""
    return fill_page(folder_name(run.out), render(__name__, "lead.html"), [section(run) for section in sections])
