"""A folder of analyses read again: every table, what is absent, and what is broken."""

import shutil
from pathlib import Path

import pytest

from lit_narrative.circuits.analyses import ablation, lens, probes, sae
from lit_narrative.circuits.analysis import SPLITS
from lit_narrative.circuits.suite import load_results
from lit_narrative.errors import UserError


def test_every_table_is_read_again(circuits: Path) -> None:
    result = load_results(circuits)
    assert result.splits == ["id_test", "other"]
    by_split = [table for table in result.tables if table.folders == SPLITS]
    files = ("patching.csv", "circuit.json", "nodes.json", "faithfulness.csv", "criteria.json", "acdc.json")
    assert {table.file for table in by_split} == {*files, "lens.csv", "direct.json", "attention.csv"}
    for table in by_split:
        assert list(result.each(table)) == result.splits, table
    assert result.one(probes.TABLE) is not None and result.one(ablation.TABLE) is not None
    assert list(result.each(sae.FEATURES)) == list(result.each(sae.PATTERNS)) == ["blocks.1.hook_resid_pre"]


def test_what_was_not_done_is_absent(circuits: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(circuits, tmp_path / "own"))
    (folder / "probes.csv").unlink()
    (folder / "other" / "lens.csv").unlink()
    result = load_results(folder)
    assert result.one(probes.TABLE) is None
    assert list(result.each(lens.LENS)) == ["id_test"]


def test_a_folder_that_is_none_and_a_broken_table_are_named(circuits: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'nowhere' is not a folder of circuit analyses"):
        load_results("nowhere")
    folder = Path(shutil.copytree(circuits, tmp_path / "own"))
    (folder / "other" / "circuit.json").write_text("{")
    with pytest.raises(UserError, match=r"own/other/circuit\.json is not valid JSON"):
        load_results(folder)
    (array,) = list(folder.glob("probes.safetensors")) or list(folder.glob("**/*.safetensors"))[:1]
    shutil.rmtree(folder / "other")
    array.write_bytes(b"no arrays")
    with pytest.raises(UserError, match="is damaged"):
        load_results(folder)
    (folder / "manifest.json").write_text("[]")
    with pytest.raises(UserError, match="names no splits"):
        load_results(folder)
