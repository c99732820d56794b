"""Two processes with a share of the weights each learn, evaluate, write and resume as one process with all of them."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import lit_narrative.modules.fsdp  # noqa: F401 (registers the strategy)
from lit_narrative.cli import main
from lit_narrative.lm.load import Lora
from lit_narrative.modules.sft import SFTModule
from tests.helpers import PROMPTS, tiny_lm, tokenizer
from tests.runs.jobs import difference, found, imitate, weights
from tests.runs.processes import two_processes

pytestmark = pytest.mark.ddp
FSDP = {"devices": 2, "strategy": "fsdp2"}
CASES = {"gpt2": None, "llama": Lora(r=3)}
STEPS = 4


Runs = tuple[Path, dict[str, Any]]


@pytest.fixture(scope="module", params=CASES)
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """A folder with the same run under each strategy, and its settings."""
    folder = tmp_path_factory.mktemp("runs")
    tiny_lm(request.param, scale=3).save_pretrained(folder / "base")
    tokenizer().save_pretrained(folder / "base")
    settings = {"base": folder / "base", "lora": CASES[request.param]}
    imitate(folder / "one", **settings)
    imitate(folder / "ddp", **settings, devices=2, strategy="ddp_fork")
    two_processes(imitate, folder / "fsdp", **settings, **FSDP)
    return folder, settings


def checkpoint(folder: Path, step: int) -> Path:
    (path,) = (folder / "checkpoints").glob(f"*step={step}.ckpt")
    return path


def test_every_strategy_learns_the_same(runs: Runs) -> None:
    folder, _ = runs
    for step in (1, STEPS):
        expected = weights(folder / "one", step)
        assert difference(weights(folder / "ddp", step), expected) < 1e-5
        assert difference(weights(folder / "fsdp", step), expected) < 1e-5
    assert difference(weights(folder / "one", 1), weights(folder / "one", STEPS)) > 1e-4


def test_processes_with_different_numbers_of_batches_evaluate_and_write_as_one(runs: Runs) -> None:
    folder, _ = runs
    metrics, texts = found(folder / "one")
    sharded_metrics, sharded_texts = found(folder / "fsdp")
    for name in ("val/loss", "test/loss", "grad_norm", "learning_rate"):
        assert sharded_metrics[name] == pytest.approx(metrics[name], rel=1e-4), name
    assert sharded_texts == texts
    assert len(texts) == 19  # of 4 batches on one process and 3 on the other


@pytest.mark.parametrize("start", ["fsdp", "ddp"])
def test_a_sharded_run_goes_on_exactly_from_the_middle(runs: Runs, start: str) -> None:
    folder, settings = runs
    two_processes(imitate, folder / f"from_{start}", **settings, **FSDP, ckpt_path=checkpoint(folder / start, 2))
    assert difference(weights(folder / f"from_{start}", STEPS), weights(folder / start, STEPS)) < 1e-6


def test_one_process_goes_on_with_what_two_began(runs: Runs) -> None:
    folder, settings = runs
    imitate(folder / "alone", **settings, ckpt_path=checkpoint(folder / "fsdp", 2))
    assert difference(weights(folder / "alone", STEPS), weights(folder / "one", STEPS)) < 1e-5


def test_the_checkpoint_is_one_file_for_a_notebook(runs: Runs) -> None:
    folder, settings = runs
    last = checkpoint(folder / "fsdp", STEPS)
    state = torch.load(last, weights_only=True)["state_dict"]
    assert {type(value) for value in state.values()} == {torch.Tensor}
    assert all("lora_" in name for name in state) == bool(settings["lora"])
    module = SFTModule.load_from_checkpoint(last)
    own = {name: value for name, value in module.state_dict().items() if name in state}
    assert difference(state, own) == 0
    assert module.tokenizer(PROMPTS[0])["input_ids"] == tokenizer()(PROMPTS[0])["input_ids"]


SMALL = (
    *("--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
    *("--trainer.callbacks.samples=5", "--data.val_size=17", "--data.test_size=17", "--data.state_worlds=16"),
    *("--data.train_size=32", "--data.batch_size=2", "--model.sampling.max_new_tokens=16"),
)
FIT = (
    *("fit", "--config", "storyworld/sft", "--config", "trainer/fsdp", *SMALL),
    *("--trainer.max_steps=2", "--trainer.val_check_interval=2"),
    *("--model.tokenizer.sample=32", "--model.tokenizer.vocab_size=300", "--model.model.positions=2048"),
    *("--model.model.hidden_size=32", "--model.model.heads=2"),
)
TEST = ("test", "--config", "storyworld/test", "--config", "trainer/fsdp", *SMALL)


def check_folder(folder: Path) -> None:
    """A whole run folder, whose checkpoint serves one process."""
    assert yaml.safe_load((folder / "config.yaml").read_text())["trainer"]["strategy"] == "fsdp2"
    assert (folder / "metrics.csv").is_file()
    assert (folder / "verifiers" / "val.json").is_file()
    module = SFTModule.load_from_checkpoint(folder / "checkpoints" / "last.ckpt")
    assert len(module.state_dict()) > 10


def test_yaml_alone_shards_a_run(tmp_path: Path) -> None:
    root = f"--trainer.default_root_dir={tmp_path}"
    two_processes(main, [*FIT, root])
    check_folder(tmp_path)
    two_processes(main, [*TEST, root, f"--ckpt_path={tmp_path / 'checkpoints' / 'last.ckpt'}"])
    assert (tmp_path / "verifiers" / "test.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [("torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"), ()])
def test_torchrun_and_lightning_start_the_processes(launcher: tuple[str, ...], tmp_path: Path) -> None:
    command = [sys.executable, "-m", *launcher, "lit_narrative", *FIT, f"--trainer.default_root_dir={tmp_path}"]
    subprocess.run(command, check=True, timeout=170)
    check_folder(tmp_path)
