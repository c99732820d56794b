"""Circuit analysis among several processes: one works, all of them go on or end together."""

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import seed_everything

import lit_narrative.strategies  # noqa: F401 (registers the strategy)
from lit_narrative.callbacks.circuit_analysis import CircuitAnalysis
from lit_narrative.circuits.analyses.residual_sae import ResidualSAESettings
from lit_narrative.circuits.suite import CircuitSettings
from lit_narrative.datamodules.cards import CardsData
from lit_narrative.errors import UserError
from lit_narrative.lm.load import ScratchModel
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.lm.tokenizer import TrainedTokenizer
from lit_narrative.modules.sft import SFTModule
from lit_narrative.tasks.cards.game import CardGame
from tests.helpers import trainer
from tests.runs.processes import two_processes

pytestmark = pytest.mark.ddp
DDP = {"devices": 2, "strategy": "ddp"}
TOO_MANY = CircuitSettings(sae=ResidualSAESettings(options={"k": 10**6})).tiny()


def measure(
    folder: Path, circuits: dict[str, Any] | None = None, fits: bool = False, **options: Any
) -> dict[str, float]:
    """Test, or train for two steps, with an analysis; the metrics logged."""
    seed_everything(0, verbose=False)
    given = {"examples": 4, "analyses": ("probes", "patching", "attention", "sae"), "splits": ("id_test", "paraphrase")}
    callback = CircuitAnalysis(**{"settings": CircuitSettings().tiny(), **given, **(circuits or {})})
    run = trainer(folder, callback, **options)
    model = ScratchModel("gpt2", hidden_size=16, layers=2, heads=2, positions=64)
    module = SFTModule(model, TrainedTokenizer(kind="words"), sampling=SamplingParams(4))
    game = CardGame({"classification": ["sum_above_9"]}, (2, 2), (3, 4))
    data = CardsData(game, train_size=16, prompt_size=8, val_size=6, test_size=8, batch_size=4)
    (run.fit if fits else run.test)(module, data)
    return {name: float(value) for name, value in run.callback_metrics.items()}


def written(folder: Path) -> dict[str, bytes]:
    """Tables, arrays and values of an analysis by name; its manifest and figures aside."""
    files = [path for kind in ("csv", "json", "safetensors") for path in (folder / "circuits").rglob(f"*.{kind}")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.name != "manifest.json"}


@pytest.mark.slow
def test_two_processes_write_what_one_writes(tmp_path: Path) -> None:
    metrics = measure(tmp_path / "one")
    assert "circuits/patching/id_test/recovery" in metrics
    two_processes(measure, tmp_path / "two", **DDP)
    one = written(tmp_path / "one")
    assert {"circuits/probes.csv", "circuits/id_test/patching.csv", "circuits/paraphrase/attention.csv"} <= set(one)
    assert written(tmp_path / "two") == one
    assert [path.name for path in (tmp_path / "two" / "circuits").parent.iterdir() if path.name.startswith(".")] == []


@pytest.mark.slow
def test_training_goes_on_after_the_analyses_of_its_epochs(tmp_path: Path) -> None:
    two_processes(measure, tmp_path, {"on": "every_n_epochs"}, fits=True, max_epochs=2, **DDP)
    assert {path.name for path in (tmp_path / "circuits").iterdir()} >= {"epoch_000", "epoch_001"}


def fails(message: str, *args: Any, **options: Any) -> None:
    """What each process must find."""
    with pytest.raises(UserError, match=message):
        measure(*args, **options)


@pytest.mark.parametrize(
    ("circuits", "message"),
    [
        pytest.param({"settings": TOO_MANY}, "CircuitAnalysis: sae: k must lie in", marks=pytest.mark.slow),
        ({"layers": (7,)}, "the model has layers 0 to 1"),
    ],
)
def test_every_process_ends_with_the_error_of_the_first(circuits: dict[str, Any], message: str, tmp_path: Path) -> None:
    """After the analyses, and before the tests."""
    two_processes(fails, message, tmp_path, circuits, **DDP)


def test_a_model_that_is_shared_out_is_refused(tmp_path: Path) -> None:
    two_processes(fails, "needs the whole model on one device", tmp_path, devices=2, strategy="fsdp2")
