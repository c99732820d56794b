"""What a page is made of, and the templates that turn it into HTML."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import jinja2
from markupsafe import Markup

from lit_narrative.report.wording import clip, interval, number, percent, signed


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page: an anchor, a heading, and its HTML."""

    anchor: str
    title: str
    body: Markup


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


def render(template: str, **context: Any) -> Markup:
    """Fill a template of this package; every value is escaped unless it is markup already."""
    return Markup(_environment().get_template(template).render(**context))


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lit_narrative.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, signed=signed, percent=percent, interval=interval, clip=clip)
    return environment
