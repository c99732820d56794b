"""Two folders compared: the same gives no change, and what cannot be compared is refused or left out by name."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from lit_narrative.circuits.analyses import ablation, attribution, patching, probes
from lit_narrative.circuits.analysis import CircuitResults
from lit_narrative.circuits.compare import find_common, list_changes
from lit_narrative.circuits.suite import load_results
from lit_narrative.errors import UserError
from tests.circuits.make_results import HOOK


def edited(folder: Path, target: Path, **changes: Any) -> CircuitResults:
    copied = Path(shutil.copytree(folder, target))
    stored = json.loads((copied / "manifest.json").read_text())
    (copied / "manifest.json").write_text(json.dumps({**stored, **changes}))
    return load_results(copied)


def test_a_model_and_itself_do_not_differ(circuits: Path) -> None:
    results = load_results(circuits)
    delta = list_changes(find_common(results, results))
    assert delta["left_out"] == []
    assert delta["figures"] == {"sae/l0": {"old": 2.0, "new": 2.0, "change": 0.0}}
    for shared in (*delta["important_parts"].values(), *delta["circuits"].values()):
        assert (shared["jaccard"], shared["spearman"]) == (1.0, pytest.approx(1.0))
        assert 0 < shared["chance"] < 0.5
    assert all(row["change"] == 0 for rows in delta["probes"].values() for row in rows)
    assert delta["sae"][HOOK]["matched_cosine"] == pytest.approx(1.0)
    assert delta["sae"][HOOK]["matched_cosine_of_random"] < 0.7
    json.dumps(delta, allow_nan=False)


def test_another_model_differs_where_its_tables_do(circuits: Path, noisy_circuits: Path) -> None:
    old, new = load_results(circuits), load_results(noisy_circuits)
    delta = list_changes(find_common(old, new))
    first = delta["patching"]["id_test"][0]
    recoveries = [
        next(
            patch.recovery
            for patch in results.each(patching.TABLE)["id_test"].patches
            if all(getattr(patch, name) == first[name] for name in ("direction", "site", "layer", "head", "place"))
        )
        for results in (old, new)
    ]
    assert [first["old"], first["new"]] == recoveries
    assert first["change"] != 0
    assert delta["faithfulness"]["other"]["new"]["cpr"] == new.each(attribution.CURVES)["other"].cpr
    assert (delta["old"]["checkpoint"], delta["new"]["checkpoint"]) == ("runs/sft/last.ckpt", "runs/rl/last.ckpt")


def test_what_only_one_has_or_did_otherwise_is_left_out_by_name(circuits: Path, tmp_path: Path) -> None:
    results = load_results(circuits)
    splits = {**results.manifest["splits"], "other": {"examples": 9, "pairs": 4, "pairs_dropped": 0}, "third": {}}
    settings = {"probes": {**results.manifest["settings"]["probes"], "alpha": 2.0}}
    other = edited(circuits, tmp_path / "own", splits=splits, settings=settings)
    (other.folder / "ablation.csv").unlink()
    common = find_common(results, load_results(other.folder))
    assert common.left_out == (
        "other: the two were not asked the same rows or pairs",
        "third: only one of the two was asked on this split",
        "probes: done with different settings (probes.alpha)",
        "ablation: only one of the two has this analysis",
    )
    assert common.old.one(probes.TABLE) is None and common.new.one(ablation.TABLE) is None
    assert list(common.old.each(patching.TABLE)) == list(common.new.each(attribution.EDGES)) == ["id_test"]
    delta = list_changes(common)
    assert (delta["probes"], delta["important_parts"]) == ({}, {})
    assert list(delta["circuits"]) == ["id_test"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"layers": 3}}, "it takes models of the same shape"),
        ({"home": "other"}, "it takes the same reference split"),
        ({"splits": {"third": {}}}, "have nothing to compare: id_test: only one of the two was asked on this split"),
    ],
)
def test_folders_without_common_ground_are_refused(
    changes: dict[str, Any], message: str, circuits: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        find_common(load_results(circuits), edited(circuits, tmp_path / "own", **changes))
