"""The report of a storyworld run: the page of one seed, and that of several."""

from collections.abc import Callable, Sequence
from pathlib import Path

from lit_narrative.report import page
from lit_narrative.report.page import Report, Section, render, write_report
from lit_narrative.report.run_folder import read_run_folder
from lit_narrative.tasks.storyworld.report.features import sae
from lit_narrative.tasks.storyworld.report.outcome import components, headline, honesty, variety
from lit_narrative.tasks.storyworld.report.player import player
from lit_narrative.tasks.storyworld.report.reader import TESTS, read_run
from lit_narrative.tasks.storyworld.report.run import Run
from lit_narrative.tasks.storyworld.report.samples import worlds
from lit_narrative.tasks.storyworld.report.seeds import over_seeds, seed_table, summarise_seeds
from lit_narrative.tasks.storyworld.report.soundness import soundness
from lit_narrative.tasks.storyworld.report.summary import summarise
from lit_narrative.tasks.storyworld.report.training import training, warm_start


def settings(run: Run, prefix: str = "") -> Section:
    """Print each job's configuration and the versions in use; ``prefix`` is that of the jobs' folders."""
    configs = {prefix + job.name: job.config for job in run.jobs.values() if job.config is not None}
    return page.settings(configs, [job.name for job in run.jobs.values() if job.config is None])


def reproduce(run: Run) -> Section:
    """Give the commands that make the run and this page again."""
    return page.reproduce(run.folder, list(run.jobs), sampling_seeds(run))


def sampling_seeds(run: Run) -> set[str]:
    """Return the seeds with which the tests sampled."""
    return {str(test.outcome.seed) for test in (run.before, run.after) if test.outcome.seed is not None}


SECTIONS: Sequence[Callable[[Run], Section]] = (
    headline,
    soundness,
    honesty,
    components,
    training,
    variety,
    player,
    worlds,
    sae,
    warm_start,
    settings,
    reproduce,
)
"""The page of one seed from top to bottom."""


def report_on(run: Run) -> Report:
    """Build the page's sections and the summary of one seed."""
    return Report(render(__name__, "lead.html"), [section(run) for section in SECTIONS], summarise(run))


def make_report(folder: Path) -> Report:
    """Report on the folder of a storyworld recipe.

    Of several seeds it compares their outcomes, and writes the whole report of each into the seed's folder.

    Raises:
        UserError: a held-out test is missing, or a file is not what it should be.
    """
    whole = read_run_folder(folder, TESTS)
    if whole.seeds[0].path == folder:
        return report_on(read_run(folder))
    # All are read before the first page is written: a broken file of the last seed leaves no half report.
    runs = {seed.name: read_run(seed.path) for seed in whole.seeds}
    for seed, run in zip(whole.seeds, runs.values(), strict=True):
        write_report(seed.path, report_on(run))
    first, prefix = next(iter(runs.values())), whole.seeds[0].prefix
    used = {number for run in runs.values() for number in sampling_seeds(run)}
    commands = page.reproduce(whole, [prefix + name for name in first.jobs], used)
    sections = [over_seeds(runs), seed_table(runs), settings(first, prefix), commands]
    return Report(render(__name__, "lead.html"), sections, summarise_seeds(runs))
