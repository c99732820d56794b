"""Features of a tested policy's worlds against the options that are open."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from lightning.pytorch import Trainer

from lit_narrative.callbacks.feature_readout import FeatureReadout
from lit_narrative.datamodules.base import Split
from lit_narrative.datamodules.storyworld import StoryworldData
from lit_narrative.errors import UserError
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.modules.sft import SFTModule
from lit_narrative.sae.autoencoder import SAESettings
from lit_narrative.views import Prompt
from tests.helpers import TinyTask, sizes, tokenizer_folder
from tests.runs.jobs import trainer

SAE = SAESettings(d_sae=16, k=4)


class Seen(StoryworldData):
    """Tested on the prompts that the policy knows the answers to."""

    def prompts(self, split: Split) -> Sequence[Prompt]:
        return super().prompts("train")


def data() -> StoryworldData:
    return Seen(train_size=16, val_size=16, test_size=16, state_worlds=16)


def test_both_views_of_one_policy_are_measured_and_twice_alike(policy: Path, tmp_path: Path) -> None:
    found = []
    for name in ("one", "other"):
        readout = FeatureReadout(SAE, ["states", "activations"], samples=16, min_worlds=4, steps=20)
        quiet: Trainer = trainer(tmp_path / name, readout)
        module = SFTModule(str(policy), sampling=SamplingParams(128))
        quiet.test(module, data(), verbose=False)
        found.append({key: float(value) for key, value in quiet.callback_metrics.items() if "readout" in key})
    assert found[0] == pytest.approx(found[1], abs=1e-6)
    for view in ("states", "activations"):
        measured = json.loads((tmp_path / "one" / "readout" / f"{view}.json").read_text())
        assert measured["written"] == 16
        assert 4 <= measured["worlds"] == found[0][f"test/readout/{view}/worlds"]
        assert {"sae", "raw", "permuted", "random_encoder", "random_decoder"} <= set(measured["readout"])
        assert 0 <= found[0][f"test/readout/{view}/auc_sae"] <= 1


def test_too_few_worlds_are_counted_and_not_measured(tmp_path: Path) -> None:
    quiet = trainer(tmp_path, FeatureReadout(SAE, samples=4))
    quiet.test(_untrained(tmp_path), data(), verbose=False)
    named = {key for key in quiet.callback_metrics if "readout" in key}
    assert named == {"test/readout/states/worlds"}
    assert json.loads((tmp_path / "readout" / "states.json").read_text()) == {
        "view": "states",
        "written": 4,
        "worlds": int(quiet.callback_metrics["test/readout/states/worlds"]),
    }


def test_what_cannot_be_measured_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"view.*'stats'.*states"):
        FeatureReadout(SAE, ["stats"])  # type: ignore[list-item]
    with pytest.raises(UserError, match="views is empty"):
        FeatureReadout(SAE, [])
    with pytest.raises(UserError, match="TinyTask offers no plays of texts"):
        trainer(tmp_path, FeatureReadout(SAE)).test(_untrained(tmp_path), TinyTask(), verbose=False)
    with pytest.raises(UserError, match="layer is 5, and the model has the layers 0"):
        readout = FeatureReadout(SAE, ["activations"], layer=5)
        trainer(tmp_path, readout).test(_untrained(tmp_path), data(), verbose=False)


def _untrained(folder: Path) -> SFTModule:
    return SFTModule(
        sizes(positions=320), tokenizer_folder(folder), sampling=SamplingParams(16), long_examples="truncate"
    )
