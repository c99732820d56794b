"""``lit-narrative enrich``."""

import json
import sys
from pathlib import Path

import pytest

from lit_narrative.cli.main import main
from lit_narrative.tasks.storyworld.formats.files import read_any
from tests.paths import LIGHT
from tests.tasks.storyworld.lighthouse import lighthouse


def test_without_faiss_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)  # as where it is not installed
    (tmp_path / "corpus.txt").write_text("The keeper climbed the stair to the lamp at night.")
    with pytest.raises(SystemExit) as end:
        main(["enrich", str(LIGHT), str(tmp_path / "corpus.txt"), f"--cache={tmp_path}/cache"])
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: passages need faiss: pip install 'lit-narrative[retrieval]'\n"
    assert not (tmp_path / "cache").exists()


def test_a_world_keeps_its_format_and_gains_passages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("faiss", reason="passages need the extra `retrieval`")
    (tmp_path / "corpus.txt").write_text(
        "The keeper climbed the stair to the lamp at night.\n\nA storm broke the boats."
    )
    (tmp_path / "simple.json").write_text(json.dumps(lighthouse()))
    for file, dialect in ((tmp_path / "simple.json", "simple"), (LIGHT, "editor")):
        out = tmp_path / f"rich_{file.name}"
        given = [f"{tmp_path}/corpus.txt", f"--out={out}", "--least=-1", f"--cache={tmp_path}/cache"]
        main(["enrich", str(file), *given])
        assert capsys.readouterr().err.startswith("2 of ")
        reading = read_any(out.read_text())
        assert reading.dialect == dialect
        assert "A storm broke the boats." in out.read_text()
