"""The report as one HTML file that needs nothing else: no network, no script."""

from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path

from markupsafe import Markup

import lit_narrative
from lit_narrative.report.features import sae
from lit_narrative.report.outcome import components, headline, honesty, variety
from lit_narrative.report.run import Run
from lit_narrative.report.samples import worlds
from lit_narrative.report.section import Section, render
from lit_narrative.report.settings import reproduce, settings
from lit_narrative.report.training import training, warm_start
from lit_narrative.report.wording import clip, printable

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
    return fill_page(folder_name(run.out), render("lead.html"), [section(run) for section in sections])


def folder_name(out: Path) -> str:
    """What a page about a folder is called."""
    return clip(out.resolve().name, 60)


def fill_page(name: str, lead: str, sections: Sequence[Section], kind: str = "report of a run") -> str:
    """Return the HTML of a page.

    Args:
        name: its heading.
        lead: what the page is about, for someone who has not seen such a run; escaped unless it is markup.
        sections: from top to bottom.
        kind: of page.
    """
    style = files("lit_narrative.report").joinpath("templates/style.css").read_text(encoding="utf-8")
    page = render(
        "page.html",
        name=name,
        lead=lead,
        sections=sections,
        kind=kind,
        style=Markup(style),
        version=lit_narrative.__version__,
    )
    return printable(page)
