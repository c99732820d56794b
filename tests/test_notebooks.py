"""The notebooks: kept without outputs, importing what there is, and run from their first cell to their last."""

import ast
import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.paths import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SAYS = {
    "circuits": "comparison.html",
    "explain": "score",
    "features": "explained_variance",
    "poem": "held-out words",
    "trainer": "reward",
    "worlds": "dangling reference",
    "write": "tokens, ended by itself",
}
"""What stands in the outputs of each."""


def code(path: Path) -> list[str]:
    """The source of each cell of code."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_without_outputs_and_what_it_imports_is_there(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")] == []
    assert cells[0]["source"][0].startswith("# ")
    tree = ast.parse("\n".join(code(path)))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    own = [node for node in imports if str(node.module).startswith("lit_narrative")]
    names = [(str(node.module), alias.name) for node in own for alias in node.names]
    assert [name for name in names if not hasattr(importlib.import_module(name[0]), name[1])] == []


def test_the_table_names_every_notebook() -> None:
    table = (ROOT / "notebooks" / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in NOTEBOOKS if f"({path.name})" not in table] == []
    assert {path.stem for path in NOTEBOOKS} == set(SAYS)


def test_the_notebook_that_trains_nothing_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    # Its rule is named by the notebook's module.
    session = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", session)
    for cell in code(ROOT / "notebooks" / "worlds.ipynb"):
        exec(compile(cell, "worlds.ipynb", "exec"), vars(session))
    assert SAYS["worlds"] in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path) -> None:
    nbclient = pytest.importorskip("nbclient", reason="needs the extra notebooks")
    nbformat = pytest.importorskip("nbformat", reason="needs the extra notebooks")
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    nbclient.NotebookClient(notebook, timeout=800, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs: list[Any] = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    texts = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs]
    assert SAYS[path.stem] in "\n".join(texts)
