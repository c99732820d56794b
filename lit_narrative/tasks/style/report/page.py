"""The report of a style run."""

from pathlib import Path

from lit_narrative.report.page import Report, render, reproduce, settings
from lit_narrative.tasks.style.report.examples import over_used, side_by_side
from lit_narrative.tasks.style.report.outcome import headline, seed_table, tables
from lit_narrative.tasks.style.report.run import StyleRun, read_style
from lit_narrative.tasks.style.report.summary import summarise
from lit_narrative.tasks.style.report.training import along, judges, training


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


def make_report(folder: Path) -> Report:
    """Report on the folder of a recipe that teaches an author's style.

    Raises:
        UserError: there is no test in the folder, or a file is not what it should be.
    """
    return report_on(read_style(folder))
