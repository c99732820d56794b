"""The lines of docs/python.md run one after another, as in a notebook."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.paths import ROOT

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(encoding="utf-8"), re.DOTALL)


def test_the_session_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    notebook = ModuleType("notebook_of_the_docs")  # a reward is found again by its module, as in a notebook's __main__
    monkeypatch.setitem(sys.modules, notebook.__name__, notebook)
    session = vars(notebook)
    for block in BLOCKS:
        exec(compile(block, "docs/python.md", "exec"), session)
    out = capsys.readouterr().out
    assert "valid_json" in out and "encounters" in out
    judged = session["judged"]
    assert judged._repr_html_().startswith("<") and judged.world._repr_html_().startswith("<")
    assert not isinstance(session["again"], type(session["grpo"]))
