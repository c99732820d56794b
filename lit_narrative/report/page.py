"""The report as one HTML file that needs nothing else: no network, no script."""

from collections.abc import Callable, Sequence
from importlib.resources import files

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
    """Return the page's HTML."""
    style = files("lit_narrative.report").joinpath("templates/style.css").read_text(encoding="utf-8")
    page = render(
        "page.html",
        name=clip(run.out.resolve().name, 60),
        sections=[section(run) for section in sections],
        style=Markup(style),
        version=lit_narrative.__version__,
    )
    return printable(page)
