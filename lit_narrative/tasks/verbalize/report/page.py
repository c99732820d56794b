"""The report of a verbalize run."""

from pathlib import Path

from lit_narrative.report.page import Report, render, reproduce, settings
from lit_narrative.tasks.verbalize.report.examples import examples
from lit_narrative.tasks.verbalize.report.outcome import headline, prefixes, seed_table, tables
from lit_narrative.tasks.verbalize.report.run import VerbalizeRun, read_verbalize
from lit_narrative.tasks.verbalize.report.summary import summarise


def report_on(run: VerbalizeRun) -> Report:
    """Build the page's sections and the summary; of the settings, those of the first seed are shown."""
    made = [headline(run), examples(run), tables(run), prefixes(run), seed_table(run)]
    prefix, actors = run.folder.seeds[0].prefix, run.seeds[0].actors.values()
    configs = {prefix + actor.name: actor.config for actor in actors if actor.config is not None}
    without = [prefix + actor.name for actor in actors if actor.config is None]
    ending = [settings(configs, without), reproduce(run.folder, list(configs))]
    sections = [*(section for section in made if section is not None), *ending]
    return Report(render(__name__, "lead.html"), sections, summarise(run))


def make_report(folder: Path) -> Report:
    """Report on the folder of a recipe that puts activations into words.

    Raises:
        UserError: there is no test in the folder, or a file is not what it should be.
    """
    return report_on(read_verbalize(folder))
