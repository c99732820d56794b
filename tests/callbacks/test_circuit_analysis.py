"""Circuit analysis within a run."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_narrative.callbacks.circuit_analysis import CircuitAnalysis
from lit_narrative.callbacks.circuit_runs import CircuitSettings
from lit_narrative.circuits.ablation import AblationSettings
from lit_narrative.circuits.patches import PatchingSettings
from lit_narrative.circuits.probes import ProbeSettings
from lit_narrative.datamodules.cards import CardsData
from lit_narrative.lm.load import ScratchModel
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.lm.tokens import TrainedTokenizer
from lit_narrative.modules.sft import SFTModule
from lit_narrative.tasks.cards.game import CardGame
from tests.helpers import fit, trainer, weights

QUICK = replace(
    CircuitSettings(ProbeSettings(sites=("resid_pre",)), ablation=AblationSettings(("heads",))).tiny(),
    patching=PatchingSettings(sites=("resid_pre", "z"), places=("answer", "changed")),
)
FIRST = ("patching", "ablation")


def data(**settings: Any) -> CardsData:
    game = CardGame({"classification": ["sum_above_9"]}, (2, 2), (3, 4), scratchpad="none")
    small = {"train_size": 32, "prompt_size": 32, "val_size": 6, "test_size": 16, "batch_size": 8}
    return CardsData(**{"game": game, **small, **settings})


def policy(**settings: Any) -> SFTModule:
    model = ScratchModel("gpt2", hidden_size=16, layers=2, heads=2, positions=64, dropout=0.1)
    return SFTModule(model, TrainedTokenizer(kind="words"), sampling=SamplingParams(4), lr=1e-2, **settings)


def analysis(**settings: Any) -> CircuitAnalysis:
    given = {"analyses": FIRST, "splits": ("id_test", "new_colors"), "examples": 8, "settings": QUICK}
    return CircuitAnalysis(**{**given, **settings})


def outcome(folder: Path, module: Any = None, task: Any = None, **settings: Any) -> dict[str, float]:
    runner = trainer(folder, analysis(**settings))
    (metrics,) = runner.test(module or policy(), task or data(), verbose=False)
    return dict(metrics)


def manifest(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "circuits" / "manifest.json").read_text()))


def test_test_writes_tables_and_a_manifest_and_logs_figures(tmp_path: Path) -> None:
    module = policy()
    metrics = outcome(tmp_path, module, analyses=("probes", *FIRST))
    said = manifest(tmp_path)
    files = {path.relative_to(tmp_path / "circuits").as_posix() for path in (tmp_path / "circuits").rglob("*.*")}
    assert files == {*said["files"], "manifest.json"}
    assert {"probes.csv", "ablation.csv", "jaccard.json", "id_test/patching.csv", "new_colors/patching.csv"} <= files
    for name, value in said["figures"].items():
        assert metrics[f"circuits/{name}"] == pytest.approx(value)
    assert {"patching/new_colors/recovery", "ablation/id_test/accuracy", "probes/selectivity"} <= set(said["figures"])
    assert (said["errors"], said["home"], said["analyses"]) == ({}, "id_test", ["probes", *FIRST])
    assert said["splits"]["new_colors"] == {"examples": 8, "pairs": 8, "pairs_dropped": 0}
    assert said["settings"]["patching"]["places"] == ["answer", "changed"]
    assert {"torch", "transformer-lens"} <= set(said["versions"])
    with (tmp_path / "circuits" / "probes.csv").open() as file:
        targets = {row["target"] for row in csv.DictReader(file)}
    assert {"rule", "total", "running_total_1", "contribution_2", "sum_red"} <= targets


def test_model_and_random_streams_are_as_they_were(tmp_path: Path) -> None:
    """Training with an analysis after each epoch gives the weights of training without."""
    plain, watched = policy(), policy()
    fit(plain, data(), tmp_path / "plain", max_epochs=2)
    fit(watched, data(), tmp_path / "watched", analysis(on="every_n_epochs"), max_epochs=2)
    assert watched.lm.training
    for name, value in weights(plain).items():
        assert torch.equal(weights(watched)[name], value), name
    assert sorted(path.name for path in (tmp_path / "watched" / "circuits").iterdir()) == ["epoch_000", "epoch_001"]
