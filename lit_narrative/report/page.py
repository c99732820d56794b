"""The report as one HTML file that needs nothing else: no network, and no script but those of its sections."""

import hashlib
import shlex
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

import lit_narrative
from lit_narrative.files import write_json, write_text
from lit_narrative.report.format import clip, interval, number, percent, printable, signed
from lit_narrative.report.run_folder import RunFolder, versions

_CONFIG, _COMMAND = 30_000, 2_000  # characters of a configuration, and of a command, that a page shows


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page: an anchor, a heading, and its HTML.

    Attributes:
        anchor: where links to it lead.
        title: its heading.
        body: its HTML.
        script: JavaScript that runs when the page is there; it stands unescaped, and holds no text of a model.
    """

    anchor: str
    title: str
    body: Markup
    script: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What a task makes of a run's folder.

    Attributes:
        lead: what the page is about, for someone who has not seen such a run; escaped unless it is markup.
        sections: of the page, from top to bottom.
        summary: the figures as plain data, the content of ``summary.json``.
    """

    lead: str
    sections: Sequence[Section]
    summary: Mapping[str, Any]


def build_page(out: Path, report: Report, more: Sequence[Section] = ()) -> str:
    """Return the HTML of a report on the folder ``out``; ``more`` stands below its sections."""
    return fill_page(clip(out.resolve().name, 60), report.lead, [*report.sections, *more])


def write_report(out: Path, report: Report, more: Sequence[Section] = ()) -> Path:
    """Write ``summary.json`` and ``report.html`` of a report into the folder and return the latter."""
    page = build_page(out, report, more)  # before the first file is written: a fault in a section leaves neither
    write_json(out / "summary.json", report.summary)
    return write_text(out / "report.html", page)


def fill_page(name: str, lead: str, sections: Sequence[Section], kind: str = "report of a run") -> str:
    """Return the HTML of a page.

    Args:
        name: its heading.
        lead: what the page is about, for someone who has not seen such a run; escaped unless it is markup.
        sections: from top to bottom.
        kind: of page.
    """
    # Each once: sections of several kinds may need the same.
    script = printable("\n".join(dict.fromkeys(section.script for section in sections if section.script)))
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    style = files("lit_narrative.report").joinpath("templates/style.css").read_text(encoding="utf-8")
    page = render(
        __name__,
        "page.html",
        name=name,
        lead=lead,
        sections=sections,
        kind=kind,
        # Not escaped: it is a file of this package, and quotes in CSS have to stay quotes.
        style=Markup(style),
        script=Markup(script),
        # The browser runs this script alone, whatever a text brings into the page.
        script_source=f"'sha256-{digest}'" if script else "'none'",
        version=lit_narrative.__version__,
    )
    return printable(page)


@dataclass(frozen=True, slots=True)
class Key:
    """An entry of a chart's legend.

    Attributes:
        name: what is drawn so.
        tone: name of its colour.
        shape: ``line``, ``level``, ``band`` or ``dot``.
    """

    name: str
    tone: str
    shape: str = "line"


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart of a section.

    Attributes:
        title: its heading.
        chart: the drawing, as markup.
        note: a sentence on how to read it.
        keys: its legend.
    """

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
        # Texts of a policy are hostile: they may hold markup, scripts included.
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, signed=signed, percent=percent, interval=interval, clip=clip)
    return environment


def settings(configs: Mapping[str, str], without: Sequence[str] = ()) -> Section:
    """Print configurations and the versions in use.

    Args:
        configs: job -> its settings as YAML text.
        without: jobs whose settings were not kept.
    """
    shown = {name: clip(text, _CONFIG) for name, text in configs.items()}
    body = render(__name__, "settings.html", configs=shown, without=without, versions=versions())
    return Section("settings", "Settings and versions", body)


def reproduce(folder: RunFolder, jobs: Sequence[str], sampling_seeds: Iterable[str] = ()) -> Section:
    """Give the commands that make a run and its page again, and how long its jobs took.

    Args:
        folder: of the run.
        jobs: whose settings the page prints.
        sampling_seeds: of the texts that the figures are of.
    """
    body = render(
        __name__,
        "reproduce.html",
        out=clip(shlex.quote(str(folder.out)), 200),
        command=clip(folder.command, _COMMAND),
        jobs=jobs,
        seeds=sorted(set(sampling_seeds)),
        seconds=folder.seconds,
        total=sum(folder.seconds.values()),
    )
    return Section("reproduce", "How to repeat this", body)
