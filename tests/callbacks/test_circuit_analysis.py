"""Circuit analysis within a run."""

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.loggers import CSVLogger
from transformers import CTRLConfig, CTRLLMHeadModel

from lit_narrative.callbacks.circuit_analysis import CircuitAnalysis
from lit_narrative.circuits.analyses.ablation import AblationSettings
from lit_narrative.circuits.analyses.patching import PatchingSettings
from lit_narrative.circuits.analyses.residual_sae import ResidualSAESettings
from lit_narrative.circuits.linear_probe import ProbeSettings
from lit_narrative.circuits.suite import ANALYSES, CircuitSettings
from lit_narrative.cli.main import main
from lit_narrative.datamodules.cards import CardsData
from lit_narrative.datamodules.storyworld import StoryworldData
from lit_narrative.errors import UserError
from lit_narrative.lm.load import Lora, ScratchModel
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.lm.tokenizer import TrainedTokenizer
from lit_narrative.lookup import shipped_configs
from lit_narrative.modules.grpo import GRPOModule
from lit_narrative.modules.sae import SAEModule
from lit_narrative.modules.sft import SFTModule
from lit_narrative.rl.loss_settings import LossSettings
from lit_narrative.rl.reference import ReferenceSettings
from lit_narrative.tasks.cards.game import CardGame
from tests.helpers import TinyTask, fit, sizes, tokenizer_folder, trainer, weights

QUICK = replace(
    CircuitSettings(ProbeSettings(sites=("resid_pre",)), ablation=AblationSettings(("heads",))).tiny(),
    patching=PatchingSettings(sites=("resid_pre", "z"), places=("answer", "changed")),
)
SMALL = {
    "probes": {"sites": ["resid_pre"]},
    "patching": {"places": ["answer"], "sites": ["resid_pre", "z"]},
    "attribution": {"steps": 1},
    "faithfulness": {"fractions": [0.5], "random": 1},
    "acdc": {"max_pairs": 2, "max_edges": 6, "draws": 1},
    "sae": {"steps": 2, "expansion": 1},
}
SAE_FILES = ("features.csv", "report.json", "patterns.csv", "effects.csv", "splice.json", "cfg.json")
FIRST = ("patching", "ablation")


def data(**settings: Any) -> CardsData:
    game = CardGame({"classification": ["sum_above_9"]}, (2, 2), (3, 4), scratchpad="none")
    small = {"train_size": 32, "prompt_size": 32, "val_size": 6, "test_size": 16, "batch_size": 8}
    return CardsData(**{"game": game, **small, **settings})


def policy(**settings: Any) -> SFTModule:
    model = ScratchModel("gpt2", hidden_size=16, layers=2, heads=2, positions=64, dropout=0.1)
    return SFTModule(model, TrainedTokenizer(kind="words"), sampling=SamplingParams(4), lr=1e-2, **settings)


def analysis(**settings: Any) -> CircuitAnalysis:
    given = {"analyses": FIRST, "splits": ("id_test", "new_colors"), "examples": 8, "settings": QUICK, "pages": False}
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
    stored = manifest(tmp_path)
    files = {path.relative_to(tmp_path / "circuits").as_posix() for path in (tmp_path / "circuits").rglob("*.*")}
    assert files == set(stored["files"])
    assert {"probes.csv", "ablation.csv", "jaccard.json", "id_test/patching.csv", "new_colors/patching.csv"} <= files
    for name, value in stored["figures"].items():
        assert metrics[f"circuits/{name}"] == pytest.approx(value)
    assert {"patching/new_colors/recovery", "ablation/id_test/accuracy", "probes/selectivity"} <= set(stored["figures"])
    assert (stored["errors"], stored["home"], stored["analyses"]) == ({}, "id_test", ["probes", *FIRST])
    assert stored["splits"]["new_colors"].items() >= {"examples": 8, "pairs": 8, "pairs_dropped": 0}.items()
    assert stored["model"] == {
        "layers": 2,
        "heads": 2,
        "kv_heads": 2,
        "width": 16,
        "vocabulary": module.lm.config.vocab_size,
    }
    assert stored["settings"]["patching"]["places"] == ["answer", "changed"]
    assert {"torch", "transformer-lens"} <= set(stored["versions"])
    with (tmp_path / "circuits" / "probes.csv").open() as file:
        targets = {row["target"] for row in csv.DictReader(file)}
    assert {"rule", "total", "running_total_1", "contribution_2", "sum_red"} <= targets


def test_model_and_random_streams_are_as_they_were(tmp_path: Path) -> None:
    """Training with an analysis after each epoch gives the weights of training without."""
    plain, watched = policy(), policy()
    fit(plain, data(), tmp_path / "plain", max_epochs=2)
    fit(
        watched, data(), tmp_path / "watched", analysis(on="every_n_epochs", analyses=("patching", "sae")), max_epochs=2
    )
    assert watched.lm.training
    for name, value in weights(plain).items():
        assert torch.equal(weights(watched)[name], value), name
    assert sorted(path.name for path in (tmp_path / "watched" / "circuits").iterdir()) == ["epoch_000", "epoch_001"]


@pytest.mark.slow
def test_every_analysis_by_the_command_line_on_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What SFT wrote is tested, and compared with what it was a step before."""
    monkeypatch.chdir(tmp_path)
    module = ["--model.model.hidden_size=16", "--model.model.layers=2", "--model.model.heads=2"]
    small = ["--data.train_size=64", "--data.val_size=8", "--data.test_size=12", "--data.batch_size=16"]
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"]
    for steps in (1, 2):
        given = [f"--trainer.default_root_dir=fit{steps}", f"--trainer.max_steps={steps}"]
        main(["fit", "--config", "cards/sft", *module, *small, *quiet, *given, "--trainer.limit_val_batches=0"])
    shutil.copy(shipped_configs()["cards/circuits"], "own.yaml")
    config = yaml.safe_load(Path("own.yaml").read_text())
    (callback,) = config["trainer"]["callbacks"]
    callback["init_args"] |= {"splits": ["id_test", "new_colors"], "examples": 8, "settings": SMALL}
    callback["init_args"]["reference"] = "fit1/checkpoints/last.ckpt"
    Path("own.yaml").write_text(yaml.safe_dump(config))
    main(["test", "--config", "own.yaml", "--ckpt_path", "fit2/checkpoints/last.ckpt", *small, *quiet])
    folder = tmp_path / "runs" / "cards" / "circuits" / "circuits"
    stored = json.loads((folder / "manifest.json").read_text())
    assert stored["errors"] == {}
    assert stored["checkpoint"] == "fit2/checkpoints/last.ckpt"
    everywhere = {"probes.csv", "probes.safetensors", "ablation.csv", "jaccard.json"}
    everywhere |= {f"sae/blocks.1.hook_resid_pre/{name}" for name in SAE_FILES}
    of_pairs = ("patching.csv", "patching.safetensors", "circuit.json", "circuit.dot", "faithfulness.csv", "lens.csv")
    of_pairs += ("nodes.json", "acdc.json", "criteria.json", "attention.csv", "direct.json")
    everywhere |= {f"{split}/{name}" for split in ("id_test", "new_colors") for name in of_pairs}
    everywhere |= {"manifest.json", "circuits.html", "figures/ablation.png"}
    assert everywhere | {f"reference/{name}" for name in everywhere} | {"comparison.json", "comparison.html"} <= set(
        stored["files"]
    )
    changes = json.loads((folder / "comparison.json").read_text())
    assert set(changes["important_parts"]) == set(changes["circuits"]) == {"id_test", "new_colors"}
    for name, row in changes["figures"].items():
        assert row["new"] == stored["figures"][name]
        assert row["change"] == pytest.approx(row["new"] - row["old"])
    assert any(row["change"] for row in changes["figures"].values())


def test_end_of_training_is_analysed_and_logged(tmp_path: Path) -> None:
    log = CSVLogger(tmp_path)
    fit(policy(), data(), tmp_path, analysis(on="fit_end"), max_steps=2, logger=log)
    assert manifest(tmp_path)["step"] == 2
    with Path(log.log_dir, "metrics.csv").open() as file:
        last = list(csv.DictReader(file))[-1]
    assert float(last["circuits/ablation/id_test/accuracy"]) >= 0


def test_epochs_are_counted_and_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    fit(policy(), data(), tmp_path, analysis(on="every_n_epochs", every_n_epochs=2), max_epochs=3)
    assert [path.name for path in (tmp_path / "circuits").iterdir()] == ["epoch_001"]
    fit(policy(), data(), tmp_path / "dry", analysis(on="fit_end"), fast_dev_run=True)
    assert not (tmp_path / "dry" / "circuits").exists()


def test_adapters_are_part_of_what_is_analysed(tmp_path: Path) -> None:
    """Adapters that change the answers change the figures, and stay where they are."""
    module = policy(lora=Lora(r=2))
    plain = outcome(tmp_path / "plain", module)
    with torch.no_grad():
        for name, value in module.lm.named_parameters():
            if "lora_B" in name:
                value.fill_(0.3)
    changed = outcome(tmp_path / "changed", module)
    assert any("lora_B" in name for name, _ in module.lm.named_parameters())
    assert changed["circuits/patching/id_test/recovery"] != plain["circuits/patching/id_test/recovery"]


def test_one_failing_analysis_stops_the_run_or_is_written_down(tmp_path: Path) -> None:
    """An SAE of more features at once than it has fails; the others are written all the same."""
    settings = replace(QUICK, sae=replace(QUICK.sae, options={"k": 10**6}))
    with pytest.raises(UserError, match="CircuitAnalysis: sae: k must lie in"):
        outcome(tmp_path / "strict", analyses=("sae", "ablation"), settings=settings)
    metrics = outcome(tmp_path / "lenient", analyses=("sae", "ablation"), settings=settings, strict=False)
    assert "circuits/ablation/id_test/accuracy" in metrics
    for name in ("strict", "lenient"):
        stored = manifest(tmp_path / name)
        assert set(stored["errors"]) == {"sae"}
        assert "ablation.csv" in stored["files"]


def layers_of(folder: Path) -> dict[str, set[str]]:
    """The layers that each file of a folder of analyses speaks of."""
    named: dict[str, set[str]] = {}
    for path in (folder / "circuits").rglob("*.*"):
        name = path.relative_to(folder / "circuits").as_posix()
        if path.suffix == ".csv" and path.name != "lens.csv":  # which has the end of the stream too
            with path.open() as file:
                named[name] = {row["layer"] for row in csv.DictReader(file) if "layer" in row}
        elif path.suffix == ".json" and path.name != "manifest.json":
            named[name] = set(re.findall(r"\b[am](\d)(?:\.h\d)?\b", path.read_text()))
        elif path.parent.parent.name == "sae":
            named[name] = set(re.findall(r"blocks\.(\d)", path.parent.name))
    return {name: layers for name, layers in named.items() if layers}


def test_layers_bound_every_analysis(tmp_path: Path) -> None:
    outcome(tmp_path, layers=(0,), analyses=tuple(ANALYSES), splits=("id_test",), examples=4)
    named = layers_of(tmp_path)
    assert {layer for layers in named.values() for layer in layers} == {"0"}
    files = {Path(name).name for name in named}
    assert {"probes.csv", "ablation.csv", "patching.csv", "circuit.json", "nodes.json", "direct.json"} <= files
    assert {"attention.csv", "sae_weights.safetensors"} <= files


def test_layers_reach_the_analyses_that_name_none(tmp_path: Path) -> None:
    settings = replace(QUICK, ablation=AblationSettings(("heads",), layers=(0,)))
    outcome(tmp_path, layers=(1,), settings=settings)
    named = layers_of(tmp_path)
    assert (named["ablation.csv"], named["id_test/patching.csv"]) == ({"0"}, {"1"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"analyses": ("patchin",)}, r"there is no 'patchin'; did you mean 'patching'\?"),
        ({"analyses": ()}, "number of analyses is 0"),
        ({"splits": ()}, "number of splits is 0"),
        ({"examples": 0}, "examples is 0"),
        ({"every_n_epochs": 0}, "every_n_epochs is 0"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        analysis(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": (2,)}, "the model has layers 0 to 1"),
        ({"splits": ("id_tset",)}, "did you mean 'id_test'"),
        (
            {"analyses": ("sae",), "settings": replace(QUICK, sae=ResidualSAESettings("blocks.2.hook_resid_pre"))},
            "near",
        ),
        ({"settings": replace(QUICK, patching=PatchingSettings(layers=(0, 7)))}, "the model has layers 0 to 1"),
        (
            {"settings": replace(QUICK, ablation=AblationSettings(("neurons",), max_units=9))},
            "more than ablation.max_u",
        ),
        ({"settings": replace(QUICK, patching=PatchingSettings(places=("anser",)))}, "did you mean 'answer'"),
        (
            {"analyses": ("probes",), "settings": replace(QUICK, probes=ProbeSettings(places=("card9_value",)))},
            "no position is named 'card9_value'",
        ),
    ],
)
def test_what_the_model_or_the_task_lacks_is_said_before_training(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        fit(policy(), data(), tmp_path, analysis(on="fit_end", **settings), max_steps=1)
    assert not (tmp_path / "circuits").exists()
    with pytest.raises(UserError, match=message):
        outcome(tmp_path, **settings)


def test_a_task_without_pairs_can_be_ablated_only(tmp_path: Path) -> None:
    module = SFTModule(sizes(layers=2, positions=4096), tokenizer_folder(tmp_path))
    with pytest.raises(UserError, match="StoryworldData offers no contrast pairs, which patching, attribution"):
        outcome(tmp_path, module, StoryworldData(test_size=2, val_size=2, state_worlds=1), splits=("test",))
    with pytest.raises(UserError, match="TinyTask offers no contrast pairs"):
        outcome(tmp_path, module, TinyTask(), splits=("test",))
    metrics = outcome(tmp_path, module, TinyTask(), splits=("test",), analyses=("ablation",))
    assert "circuits/ablation/test/accuracy" in metrics
    with pytest.raises(UserError, match="name nothing to probe for"):
        outcome(tmp_path, module, TinyTask(), splits=("test",), analyses=("probes",))


def test_a_reference_of_another_model_is_refused(tmp_path: Path) -> None:
    fit(policy(), data(), tmp_path, max_steps=1, enable_checkpointing=True)
    (path,) = tmp_path.rglob("*.ckpt")
    other = SFTModule(sizes(layers=2), tokenizer_folder(tmp_path))
    with pytest.raises(UserError, match="the tokenizer of reference"):
        outcome(tmp_path, other, TinyTask(), splits=("test",), analyses=("ablation",), reference=str(path))
    with pytest.raises(UserError, match=r"no checkpoint at 'none.ckpt'"):
        outcome(tmp_path, reference="none.ckpt")
    module = policy()
    module.source.model.layers = 3  # type: ignore[union-attr]
    with pytest.raises(UserError, match="parts can be compared only one by one"):
        outcome(tmp_path, module, reference=str(path))


def test_a_model_that_cannot_be_opened_up(tmp_path: Path) -> None:
    config = CTRLConfig(vocab_size=300, n_positions=128, n_embd=16, dff=32, n_layer=1, n_head=2)
    CTRLLMHeadModel(config).save_pretrained(tmp_path / "ctrl")
    module = SFTModule(str(tmp_path / "ctrl"), tokenizer_folder(tmp_path))
    with pytest.raises(UserError, match="no circuit analysis of a CTRLLMHeadModel"):
        outcome(tmp_path, module, TinyTask(), splits=("test",), analyses=("ablation",))


def test_a_module_without_a_language_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="CircuitAnalysis needs a language model; SAEModule has none"):
        outcome(tmp_path, SAEModule())


def test_a_module_with_a_chat_template_is_refused(tmp_path: Path) -> None:
    """Its prompts would be analysed as they are never read."""
    with pytest.raises(UserError, match=r"CircuitAnalysis reads prompts as they stand, .* set model\.chat=false"):
        outcome(tmp_path, SFTModule(chat=True))


@pytest.mark.slow
def test_a_checkpoint_of_reinforcement_is_analysed_by_its_policy(tmp_path: Path) -> None:
    """It holds a reference as well, which is of no use here."""
    fit(policy(), data(), tmp_path, max_steps=1, enable_checkpointing=True)
    (start,) = tmp_path.rglob("*.ckpt")
    learner = GRPOModule(
        model=str(start),
        rewards={"correct": 1.0},
        num_generations=2,
        sampling=SamplingParams(2),
        loss=LossSettings(beta=0.1),
        reference=ReferenceSettings(kind="copy"),
    )
    fit(learner, data(), tmp_path / "rl", max_steps=1, enable_checkpointing=True)
    (path,) = (tmp_path / "rl").rglob("*.ckpt")
    assert any(name.startswith("reference.") for name in torch.load(path, weights_only=True)["state_dict"])
    runner = trainer(tmp_path, analysis(reference=str(start), pages=True))
    runner.test(policy(), data(), ckpt_path=str(path), verbose=False)
    assert manifest(tmp_path)["checkpoint"] == str(path)
    assert (tmp_path / "circuits" / "comparison.json").exists()
