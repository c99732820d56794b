import shutil
from pathlib import Path

import pytest

from lit_narrative.circuits.results import CircuitResults
from lit_narrative.errors import UserError


def test_every_table_is_read_again(circuits: Path) -> None:
    found = CircuitResults.load(circuits)
    assert found.splits == ["id_test", "other"]
    by_split = ("patching", "edges", "nodes", "faithfulness", "criteria", "pruned", "lens", "direct", "attention")
    for table in by_split:
        assert list(getattr(found, table)) == found.splits, table
    assert found.probes is not None and found.ablation is not None
    assert list(found.features) == list(found.patterns) == ["blocks.1.hook_resid_pre"]


def test_what_was_not_done_is_absent(circuits: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(circuits, tmp_path / "own"))
    (folder / "probes.csv").unlink()
    (folder / "other" / "lens.csv").unlink()
    found = CircuitResults.load(folder)
    assert found.probes is None
    assert list(found.lens) == ["id_test"]


def test_a_folder_that_is_none_and_a_broken_table_are_named(circuits: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'nowhere' is no folder of circuit analyses"):
        CircuitResults.load("nowhere")
    folder = Path(shutil.copytree(circuits, tmp_path / "own"))
    (folder / "other" / "circuit.json").write_text("{")
    with pytest.raises(UserError, match="own/other' cannot be read"):
        CircuitResults.load(folder)
    (array,) = list(folder.glob("probes.safetensors")) or list(folder.glob("**/*.safetensors"))[:1]
    shutil.rmtree(folder / "other")
    array.write_bytes(b"no arrays")
    with pytest.raises(UserError, match="cannot be read"):
        CircuitResults.load(folder)
    (folder / "manifest.json").write_text("[]")
    with pytest.raises(UserError, match="names no splits"):
        CircuitResults.load(folder)
