import json
import subprocess
import sys
from pathlib import Path

import pytest

from lit_narrative.cli import main
from lit_narrative.tools.report import report
from tests.report.make_run import FINAL, SFT, make_run


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


def test_neither_torch_nor_lightning_is_imported(out: Path) -> None:
    code = (
        "import sys; from lit_narrative.tools.report import report; "
        f"report({str(out)!r}); assert not {{'torch', 'lightning', 'transformers'}} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
