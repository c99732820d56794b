import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lit_narrative.cli.commands.report import find_learned, find_report, report
from lit_narrative.cli.main import main
from lit_narrative.errors import UserError
from lit_narrative.files import write_json
from tests.tasks.cards.report.make_cards_run import make_cards_run
from tests.tasks.storyworld.report.make_run import FINAL, SFT, make_run


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return make_run(tmp_path / "storyworld")


def test_summary_and_page_are_written(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report(str(out))
    summary = json.loads((out / "summary.json").read_text("utf-8"))
    assert summary["sft"]["components"] == SFT and summary["final"]["components"] == FINAL
    assert (out / "report.html").read_text("utf-8").startswith("<!doctype html>")
    assert capsys.readouterr().out == f"report: {out / 'report.html'}\n"
    assert not list(out.glob(".*"))


def test_the_same_run_gives_the_same_page(out: Path) -> None:
    report(str(out))
    first = (out / "report.html").read_bytes()
    report(str(out))
    assert (out / "report.html").read_bytes() == first


def test_an_error_is_one_line_and_nothing_is_written(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (out / "test_final" / "verifiers" / "test.json").unlink()
    with pytest.raises(SystemExit) as error:
        main(["report", str(out)])
    assert error.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1 and "test_final/verifiers/test.json" in message
    assert not (out / "summary.json").exists() and not (out / "report.html").exists()


@pytest.mark.parametrize(
    ("note", "flags"),
    [
        ({"report": "runpy:run_path"}, "--report runpy:run_path"),
        ({"report": "mine"}, None),
        ({"sections": ["brought:section"]}, "--section brought:section"),
    ],
)
def test_code_that_a_run_folder_names_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, note: dict[str, Any], flags: str | None
) -> None:
    monkeypatch.syspath_prepend(tmp_path)  # as with `python -m` in the folder
    for name in ("__main__", "brought"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef section(folder): ...\n")
    write_json(tmp_path / "recipe.json", note)
    with pytest.raises(UserError, match=f"say so by {flags}$" if flags else "there is no report 'mine'"):
        report(str(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_a_run_of_the_card_game_is_recognised(tmp_path: Path) -> None:
    folder = make_cards_run(tmp_path / "cards", policies=("sft",), size=8)
    report(str(folder))
    assert json.loads((folder / "summary.json").read_text("utf-8"))["task"] == "cards"
    assert "card game" in (folder / "report.html").read_text("utf-8")


def test_folders_without_a_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder"):
        report(str(tmp_path / "nothing"))
    with pytest.raises(UserError, match=r"holds no run that can be reported: no job in it has metrics"):
        report(str(tmp_path))
    (tmp_path / "master_results.csv").write_text("")
    with pytest.raises(UserError, match=r"holds a sweep, whose page is sweep"):
        report(str(tmp_path))


def test_a_run_of_another_task_has_no_such_report(out: Path) -> None:
    with pytest.raises(UserError, match="no test of the card game"):
        report(str(out), report="cards")
    with pytest.raises(UserError, match=r"did you mean 'cards'\? \(cards, storyworld, .*, run, or package"):
        report(str(out), report="card")
    with pytest.raises(
        UserError, match=r"no report 'poetry'.*sweeps, such as those of poetry, write pages of their own"
    ):
        report(str(out), report="poetry")


CUSTOM = """
from lit_narrative.report.page import Report, Section

def rhymes(folder):
    return Section("rhymes", "Rhymes & more", f"<b>{len(list(folder.iterdir()))}</b>")

def make_report(folder):
    return Report("a custom report", [rhymes(folder)], {"custom": 1})

def nothing(folder):
    return "text"

def learned(folder):
    return [f"learned: {folder.name}"]
"""


@pytest.fixture
def custom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "custom_report.py").write_text(CUSTOM)
    monkeypatch.chdir(tmp_path)  # where rewards are found too
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.mark.usefixtures("custom")
def test_a_section_from_outside_stands_at_the_end_and_is_escaped(out: Path) -> None:
    main(["report", str(out), "--section", "custom_report:rhymes"])
    page = (out / "report.html").read_text("utf-8")
    assert page.index('id="reproduce"') < page.index('id="rhymes"') and "Rhymes &amp; more" in page
    assert "&lt;b&gt;4&lt;/b&gt;" in page  # a body that is not markup


@pytest.mark.usefixtures("custom")
def test_a_report_from_outside_takes_the_place_of_ours(out: Path) -> None:
    report(str(out), report="custom_report:make_report")
    assert json.loads((out / "summary.json").read_text("utf-8")) == {"custom": 1}
    page = (out / "report.html").read_text("utf-8")
    assert "a custom report" in page and 'id="rhymes"' in page and 'id="outcome"' not in page
    find_report("custom_report:make_report")  # as a recipe asks before its jobs
    assert find_learned("custom_report:make_report")(out) == ["learned: storyworld"]  # type: ignore[misc]
    assert find_learned("cards") is None
    with pytest.raises(UserError, match=r"custom_report has no function 'rhyme'; did you mean 'rhymes'\?"):
        report(str(out), section=["custom_report:rhyme"])
    with pytest.raises(UserError, match=r"section 'custom_report': write package\.module:function"):
        report(str(out), section=["custom_report"])
    with pytest.raises(UserError, match=r"returned str, not a lit_narrative\.report\.page\.Section"):
        report(str(out), section=["custom_report:nothing"])
    with pytest.raises(UserError, match="there is no module 'nowhere'"):
        report(str(out), report="nowhere.at:all")


@pytest.mark.usefixtures("custom")
def test_the_folder_says_which_report_its_recipe_asks_for(out: Path) -> None:
    note = {"recipe": "own.yaml", "seeds": [], "set": []}
    write_json(out / "recipe.json", {**note, "report": "custom_report:make_report"})
    with pytest.raises(UserError, match="say so by --report custom_report:make_report"):
        report(str(out))
    report(str(out), report="custom_report:make_report")
    assert "a custom report" in (out / "report.html").read_text("utf-8")
    write_json(out / "recipe.json", {**note, "report": "storyworld", "sections": ["custom_report:rhymes"]})
    report(str(out), section=["custom_report:rhymes"])
    page = (out / "report.html").read_text("utf-8")
    assert 'id="outcome"' in page and 'id="rhymes"' in page


def test_neither_torch_nor_lightning_is_imported(out: Path) -> None:
    code = (
        "import sys; from lit_narrative.cli.commands.report import report; "
        f"report({str(out)!r}); assert not {{'torch', 'lightning', 'transformers'}} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
