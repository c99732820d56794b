"""The feature report at the end of training."""

import json
from pathlib import Path
from typing import Any

import pytest

from lit_narrative.callbacks.feature_report import FeatureReport, feature_page, verdict
from lit_narrative.datamodules.storyworld import StoryworldData
from lit_narrative.errors import UserError
from lit_narrative.modules.sae import SAEModule
from lit_narrative.tasks.storyworld.states import StateLayout
from tests.helpers import trainer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("features")
    data = StoryworldData(state_worlds=8, plays_per_world=30, state_split="plays", batch_size=64)
    run = trainer(folder, FeatureReport("plays", controls=1, n_top=5), max_steps=60)
    run.fit(SAEModule(d_sae=16, k=4), data)
    return folder


def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "features.json").read_text())
    return found


@pytest.mark.slow
def test_it_names_the_features_that_tell_or_says_that_none_does(folder: Path) -> None:
    found = record(folder)
    assert [one["frozen"] for one in found["controls"]] == ["encoder", "decoder"]
    assert found["control_bits"] == max(one["best_bits"] for one in found["controls"])
    assert len(found["features"]) == 5
    for row in found["features"]:
        assert row["tells"] == (row["significant"] and row["conditional_mi"] > found["control_bits"])
        assert row["tells"] == (row["latent"] in found["telling"])
    said = verdict(found)
    assert said.startswith(f"{len(found['telling'])} features survive" if found["telling"] else "None survives")
    assert said.replace("“", "").split(":")[0] in (folder / "features.html").read_text()


def test_the_sae_and_its_layout_lie_beside_it(folder: Path) -> None:
    from sae_lens import SAE

    layout = StateLayout.from_json(json.loads((folder / "sae" / "layout.json").read_text()))
    assert SAE.load_from_disk(str(folder / "sae")).cfg.d_in == layout.dim


def test_texts_of_worlds_are_escaped(folder: Path) -> None:
    found = record(folder)
    hostile = "<script>alert(1)</script>"
    found["features"][0]["top_states"] = [
        {"activation": 1.0, "text": hostile, "encounter": hostile, "open": [hostile], "closed": [hostile * 99]}
    ]
    page = feature_page(found)
    assert hostile not in page
    assert "&lt;script&gt;" in page


def test_no_feature_that_chance_explains_is_named() -> None:
    none = {"telling": [], "targets": "t", "significant": 0, "d_sae": 8, "control_bits": 0.2}
    assert verdict(none).startswith("None survives: 0 of 8 features tell “t” beyond chance")
    assert verdict({**none, "telling": [3, 1], "significant": 4}).startswith("2 features survive (3, 1)")


@pytest.mark.parametrize("given", [{"exchange": "words"}, {"controls": 0}, {"n_top": 0}])
def test_arguments_out_of_range_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"FeatureReport.{next(iter(given))}"):
        FeatureReport(**given)


def test_another_view_is_refused(tmp_path: Path) -> None:
    run = trainer(tmp_path, FeatureReport(), max_steps=1)
    with pytest.raises(UserError, match="needs SAEModule with view=states"):
        run.fit(SAEModule(d_sae=16, view="activations"), StoryworldData(state_worlds=4))
