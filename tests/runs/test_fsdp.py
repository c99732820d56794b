"""Two processes with a share of the weights each learn, evaluate, write and resume as one process with all of them."""

from pathlib import Path
from typing import Any

import pytest
import torch

import lit_narrative.modules.fsdp  # noqa: F401 (registers the strategy)
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
