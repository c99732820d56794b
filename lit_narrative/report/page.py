"""The report as one HTML file that needs nothing else: no network, no script."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

import lit_narrative
from lit_narrative.report.format import clip, interval, number, percent, printable, signed


def folder_name(out: Path) -> str:
    """What a page about a folder is called."""
    return clip(out.resolve().name, 60)


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page: an anchor, a heading, and its HTML."""

    anchor: str
    title: str
    body: Markup


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
        __name__,
        "page.html",
        name=name,
        lead=lead,
        sections=sections,
        kind=kind,
        style=Markup(style),
        version=lit_narrative.__version__,
    )
    return printable(page)


@dataclass(frozen=True, slots=True)
class Key:
    """An entry of a chart's legend: ``shape`` is ``line``, ``level``, ``band`` or ``dot``."""

    name: str
    tone: str
    shape: str = "line"


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart with its heading, its legend, and a sentence on how to read it."""

    title: str
    chart: Markup
    note: str = ""
    keys: Sequence[Key] = field(default_factory=tuple)


def render(module: str, template: str, /, **context: Any) -> Markup:
    """Fill a template; every value is escaped unless it is markup already.

    Args:
        module: the caller's ``__name__``: its templates lie in the folder ``templates`` beside it.
        template: a file there, or of the kit (``macros.html``, which others import their figures and legends from).
        context: what the template names; a name that is not given is an error.
    """
    return Markup(_environment(module).get_template(template).render(**context))


@cache
def _environment(module: str) -> jinja2.Environment:
    # The caller's folder comes first, so that its files may have the same names as the kit's.
    folders = [jinja2.PackageLoader(name) for name in dict.fromkeys([module, __name__])]
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(folders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, signed=signed, percent=percent, interval=interval, clip=clip)
    return environment
