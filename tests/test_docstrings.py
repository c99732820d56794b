"""Docstrings: those of classes that people build by hand say what each of their parameters is.

That everything public has one, and that an ``Args`` section leaves no parameter out, ruff checks (D1, D417).
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.paths import ROOT

PACKAGE = ROOT / "lit_narrative"
BUILT_BY_HAND = [
    *(PACKAGE / name for name in ("views.py", "strategies.py", "circuits/analysis.py", "datamodules/base.py")),
    *(PACKAGE / "report" / name for name in ("page.py", "charts.py", "intervals.py")),
    *sorted((PACKAGE / "modules").glob("*.py")),
    *sorted((PACKAGE / "rl" / "rewards").glob("[!l]*.py")),  # without the scorer of likelihoods, which no one names
]


def parameters(node: ast.ClassDef) -> list[str]:
    """What a class is built from: the arguments of its ``__init__``, or the fields of a record."""
    function = next((one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"), None)
    if function is not None:
        given = function.args
        return [one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs)][1:]
    record = "dataclass" in "".join(map(ast.unparse, node.decorator_list))
    if not record and "NamedTuple" not in map(ast.unparse, node.bases):
        return []
    fields = (one for one in node.body if isinstance(one, ast.AnnAssign) and "init=False" not in ast.unparse(one))
    return [ast.unparse(one.target) for one in fields if "ClassVar" not in ast.unparse(one.annotation)]


def undocumented(path: Path) -> Iterator[str]:
    """``Class.parameter`` of each that its class's docstring leaves out."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            text = ast.get_docstring(node) or ""
            for name in parameters(node):
                if not name.startswith("_") and not re.search(rf"^ *{name}:|`{name}`", text, re.MULTILINE):
                    yield f"{node.name}.{name}"


@pytest.mark.parametrize("path", BUILT_BY_HAND, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_parameter_is_undocumented(path: Path) -> None:
    assert list(undocumented(path)) == []
