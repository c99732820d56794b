"""Two processes with a share of the weights each learn, evaluate, write and resume as one process with all of them."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml

import lit_narrative.strategies  # noqa: F401 (registers the strategy)
from lit_narrative.cli.main import main
from lit_narrative.errors import UserError
from lit_narrative.lm.load import Lora
from lit_narrative.modules.grpo import GRPOModule
from lit_narrative.modules.sft import SFTModule
from lit_narrative.rl.reference import ReferenceSettings
from tests.helpers import PROMPTS, others_slow, tiny_lm, tokenizer
from tests.runs.jobs import difference, found, imitate, reinforce, weights
from tests.runs.processes import two_processes

pytestmark = pytest.mark.ddp
FSDP = {"devices": 2, "strategy": "fsdp2"}
STEPS = 4
FOLLOWED = ReferenceSettings(sync_ref_model=True, ref_model_sync_steps=1, ref_model_mixup_alpha=0.3)
CASES: dict[str, tuple[Callable[..., None], str, dict[str, Any]]] = {
    "sft": (imitate, "gpt2", {}),
    "sft_lora": (imitate, "llama", {"lora": Lora(r=3)}),
    "ppo": (reinforce, "llama", {"advantage": "gae", "reference": FOLLOWED}),
    "grpo_lora": (reinforce, "gpt2", {"lora": Lora(r=3), "reference": FOLLOWED}),
}


class Runs(NamedTuple):
    """The same run under each strategy, in ``one``, ``ddp`` and ``fsdp``, and how to run it again."""

    folder: Path
    job: Callable[..., None]
    settings: dict[str, Any]


@pytest.fixture(scope="module", params=others_slow(CASES, {"sft"}))
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """The runs of one case, from a base that is drawn to some tokens."""
    job, architecture, settings = CASES[request.param]
    folder = tmp_path_factory.mktemp("runs")
    settings = {"base": folder / "base", **settings}
    tiny_lm(architecture, scale=3).save_pretrained(folder / "base")
    tokenizer().save_pretrained(folder / "base")
    job(folder / "one", **settings)
    job(folder / "ddp", **settings, devices=2, strategy="ddp_fork")
    two_processes(job, folder / "fsdp", **settings, **FSDP)
    return Runs(folder, job, settings)


def checkpoint(folder: Path, step: int) -> Path:
    (path,) = (folder / "checkpoints").glob(f"*step={step}.ckpt")
    return path


def test_every_strategy_learns_the_same(runs: Runs) -> None:
    for step in (1, STEPS):
        expected = weights(runs.folder / "one", step)
        assert difference(weights(runs.folder / "ddp", step), expected) < 1e-5
        assert difference(weights(runs.folder / "fsdp", step), expected) < 1e-5
    assert difference(weights(runs.folder / "one", 1), weights(runs.folder / "one", STEPS)) > 5e-5


def test_every_strategy_measures_and_writes_the_same(runs: Runs) -> None:
    """Also where processes have different numbers of batches to evaluate: of 19 rows 4 and 3."""
    metrics, texts = found(runs.folder / "one")
    sharded_metrics, sharded_texts = found(runs.folder / "fsdp")
    timed = {"loss", "step_time", "rewards_time"}  # the loss of SFT is logged for the own batch
    assert metrics.keys() == sharded_metrics.keys()
    for name in metrics.keys() - timed:
        assert sharded_metrics[name] == pytest.approx(metrics[name], rel=1e-3, abs=1e-6), name
    assert sharded_texts == texts
    assert len(texts) == (19 if runs.job is imitate else 0)


@pytest.mark.parametrize(("start", "step"), [("fsdp", 3), pytest.param("ddp", 1, marks=pytest.mark.slow)])
def test_a_sharded_run_goes_on_exactly(runs: Runs, start: str, step: int) -> None:
    """From the middle of an epoch, and of a rollout batch; also where the run began under another strategy."""
    again = runs.folder / f"from_{start}"
    two_processes(runs.job, again, **runs.settings, **FSDP, ckpt_path=checkpoint(runs.folder / start, step))
    assert difference(weights(again, STEPS), weights(runs.folder / start, STEPS)) < 1e-6


def test_one_process_goes_on_with_what_two_began(runs: Runs) -> None:
    if runs.job is reinforce:  # a rollout batch belongs to the processes that made it
        with pytest.raises(UserError, match="processes 2 -> 1"):
            runs.job(runs.folder / "alone", **runs.settings, ckpt_path=checkpoint(runs.folder / "fsdp", 1))
        return
    runs.job(runs.folder / "alone", **runs.settings, ckpt_path=checkpoint(runs.folder / "fsdp", 2))
    assert difference(weights(runs.folder / "alone", STEPS), weights(runs.folder / "one", STEPS)) < 1e-5


def test_the_checkpoint_is_one_file_for_a_notebook(runs: Runs) -> None:
    last = checkpoint(runs.folder / "fsdp", STEPS)
    state = torch.load(last, weights_only=True)["state_dict"]
    assert {type(value) for value in state.values()} == {torch.Tensor}
    policy = {name: value for name, value in state.items() if name.startswith("lm.") and ".reference." not in name}
    assert all("lora_" in name for name in policy) == ("lora" in runs.settings)
    module = (SFTModule if runs.job is imitate else GRPOModule).load_from_checkpoint(last)
    own = {name: value for name, value in module.state_dict().items() if name in policy}
    assert difference(policy, own) == 0
    assert module.tokenizer(PROMPTS[0])["input_ids"] == tokenizer()(PROMPTS[0])["input_ids"]


@pytest.mark.slow
def test_bfloat16_keeps_whole_weights_and_learns_alike(tmp_path: Path) -> None:
    tiny_lm("gpt2", scale=3).save_pretrained(tmp_path / "base")
    tokenizer().save_pretrained(tmp_path / "base")
    imitate(tmp_path / "one", tmp_path / "base")
    two_processes(imitate, tmp_path / "fsdp", tmp_path / "base", precision="bf16-mixed", **FSDP)
    state = weights(tmp_path / "fsdp", STEPS)
    assert {value.dtype for value in state.values()} == {torch.float32}
    (expected, _), (metrics, _) = found(tmp_path / "one"), found(tmp_path / "fsdp")
    assert metrics["test/loss"] == pytest.approx(expected["test/loss"], rel=0.01)
    assert 0 < difference(state, weights(tmp_path / "one", STEPS)) < 0.01


SMALL = (
    *("--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
    *("--trainer.callbacks.samples=5", "--data.val_size=17", "--data.test_size=17", "--data.state_worlds=16"),
    *("--data.train_size=32", "--data.batch_size=2", "--model.sampling.max_new_tokens=16"),
)
FIT = (
    *("fit", "--config", "storyworld/sft", *SMALL, "--trainer.max_steps=2", "--trainer.val_check_interval=2"),
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


@pytest.mark.slow
def test_yaml_alone_shards_a_run(tmp_path: Path) -> None:
    root = f"--trainer.default_root_dir={tmp_path}"
    two_processes(main, [*FIT, "--config", "trainer/fsdp", root])
    check_folder(tmp_path)
    two_processes(main, [*TEST, root, f"--ckpt_path={tmp_path / 'checkpoints' / 'last.ckpt'}"])
    assert (tmp_path / "verifiers" / "test.json").is_file()


@pytest.mark.slow
def test_two_nodes_share_a_run_folder(tmp_path: Path) -> None:
    """Each node has a first process; only one of them trains the tokenizer and writes."""
    small = ("--config", "trainer/multinode", "--trainer.devices=1", "--trainer.accelerator=cpu")
    two_processes(main, [*FIT, *small, f"--trainer.default_root_dir={tmp_path}"], nodes=2)
    check_folder(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [("torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"), ()])
def test_torchrun_and_lightning_start_the_processes(launcher: tuple[str, ...], tmp_path: Path) -> None:
    command = [sys.executable, "-m", *launcher, "lit_narrative", *FIT, "--config", "trainer/fsdp"]
    subprocess.run([*command, f"--trainer.default_root_dir={tmp_path}"], check=True, timeout=170)
    check_folder(tmp_path)
