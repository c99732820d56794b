import json
import subprocess
import sys
from pathlib import Path

import pytest

from lit_narrative.cli.commands.report import report
from lit_narrative.cli.main import main
from lit_narrative.errors import UserError
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


def test_a_run_of_the_card_game_is_recognised(tmp_path: Path) -> None:
    folder = make_cards_run(tmp_path / "cards", policies=("sft",), size=8)
    report(str(folder))
    assert json.loads((folder / "summary.json").read_text("utf-8"))["task"] == "cards"
    assert "card game" in (folder / "report.html").read_text("utf-8")


def test_seeds_of_another_task_and_other_folders_are_refused(tmp_path: Path, out: Path) -> None:
    out.rename(tmp_path / "seed_0")
    with pytest.raises(UserError, match=r"give the folder of one, such as '.*seed_0'"):
        report(str(tmp_path))
    with pytest.raises(UserError, match="there is no folder"):
        report(str(tmp_path / "nothing"))
    (tmp_path / "master_results.csv").write_text("")
    with pytest.raises(UserError, match=r"holds a sweep, whose pages are by_model"):
        report(str(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="neither"):
        report(str(tmp_path / "empty"))


def test_neither_torch_nor_lightning_is_imported(out: Path) -> None:
    code = (
        "import sys; from lit_narrative.cli.commands.report import report; "
        f"report({str(out)!r}); assert not {{'torch', 'lightning', 'transformers'}} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
