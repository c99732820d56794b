"""The page kit: templates are found beside their caller, and every value is escaped."""

import sys
from pathlib import Path

import jinja2
import pytest
from markupsafe import Markup

from lit_narrative.report.page import Section, fill_page, render


def test_a_package_brings_its_own_templates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "verse" / "templates").mkdir(parents=True)
    (tmp_path / "verse" / "__init__.py").write_text("")
    (tmp_path / "verse" / "sections.py").write_text("")
    template = '{% from "macros.html" import legend %}{{ legend([]) }}<p>{{ line }}</p>'
    (tmp_path / "verse" / "templates" / "page.html").write_text(template)
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("verse", "verse.sections"):  # a package finds its folder, and so does a module in it
        assert render(module, "page.html", line="<b>") == "<p>&lt;b&gt;</p>"
        sys.modules.pop(module)
    assert "<!doctype html>" in fill_page("a run", "lead", [])  # the kit's own page, not the other of this name


def test_a_value_that_is_not_given_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError, match="undefined"):
        render("lit_narrative.report", "page.html")


def test_what_is_not_markup_is_escaped() -> None:
    page = fill_page("<i>", "<u>", [Section("one", "<b>", Markup("<em>fine</em>")), Section("two", "x", "<s>")])  # type: ignore[arg-type]
    assert "<em>fine</em>" in page
    assert not any(tag in page for tag in ("<i>", "<u>", "<b>", "<s>")) and "&lt;s&gt;" in page
