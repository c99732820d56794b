"""A critic on two processes learns what one learns, sharded or not, along with a policy too, and across a kill."""

import multiprocessing
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

import lit_narrative.strategies  # noqa: F401 (registers the strategy)
from lit_narrative.callbacks.critic_training import CriticTraining
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.lm.vectors.reconstructor import Reconstructor
from lit_narrative.modules.grpo import GRPOModule
from tests.helpers import trainer
from tests.modules.described import Describing, Explaining, actor, critic, module
from tests.runs.jobs import difference, weights
from tests.runs.processes import two_processes
from tests.runs.test_resume import ROUNDING, KillAt

pytestmark = pytest.mark.ddp
DDP, FSDP = {"devices": 2, "strategy": "ddp_fork"}, {"devices": 2, "strategy": "fsdp2"}
Job = Callable[..., None]


def describe(folder: Path, ckpt_path: Path | None = None, **options: Any) -> None:
    """Four steps of a critic alone, validated on nineteen rows, which two processes cannot share evenly."""
    folder.mkdir(exist_ok=True)
    seed_everything(0, verbose=False)
    saver = ModelCheckpoint(folder / "checkpoints", save_top_k=-1, every_n_train_steps=1)
    given = {"max_steps": 4, "limit_val_batches": 1.0, "val_check_interval": 2, "check_val_every_n_epoch": None}
    run = trainer(folder, saver, enable_checkpointing=True, gradient_clip_val=0.5, **given, **options)
    data = Describing(19, batch_size=4 if run.world_size == 1 else 2, eval_batch_size=3)
    run.fit(module(folder, {"head": "mlp", "dropout": 0.0}, lr=1e-3), data, ckpt_path=ckpt_path)
    torch.save(dict(run.callback_metrics), folder / f"found_{run.global_rank}.pt")


def explain(
    folder: Path,
    callbacks: Sequence[Callback] = (),
    ckpt_path: Path | None = None,
    **options: Any,
) -> None:
    """Four rollout batches of 16 completions, with a critic that learns along."""
    folder.mkdir(exist_ok=True)
    path, model = critic(folder), actor(folder)
    seed_everything(0, verbose=False)
    devices = options.get("devices", 1)
    policy = GRPOModule(
        {"reconstruction": 1.0},
        num_generations=4,
        micro_batch_size=4,
        model=model,
        sampling=SamplingParams(8),
        lr=1e-4,
    )
    saver = ModelCheckpoint(folder / "checkpoints", save_top_k=-1, every_n_train_steps=1)
    given = {"max_epochs": 2, "accumulate_grad_batches": 4 // devices, "enable_checkpointing": True}
    along = CriticTraining(lr=1e-4)
    run = trainer(folder, along, saver, *callbacks, **given, gradient_clip_val=1.0, **options)
    data = Explaining(path, rows=8, batch_size=4 // devices)
    run.fit(policy, data, ckpt_path=ckpt_path)
    torch.save(dict(run.callback_metrics), folder / f"found_{run.global_rank}.pt")


def critic_weights(folder: Path, step: int) -> dict[str, torch.Tensor]:
    (path,) = (folder / "checkpoints").glob(f"*step={step}.ckpt")
    return dict(Reconstructor.load(path).state_dict())


def metrics(folder: Path) -> dict[str, float]:
    found = torch.load(folder / "found_0.pt", weights_only=True)
    return {name: float(value) for name, value in found.items() if name not in ("step_time", "rewards_time", "loss")}


@pytest.fixture(
    scope="module", params=[pytest.param(describe, marks=pytest.mark.slow), explain], ids=["alone", "along"]
)
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, Path]:
    job: Job = request.param
    folder = tmp_path_factory.mktemp("runs")
    job(folder / "one")
    job(folder / "ddp", **DDP)
    two_processes(job, folder / "fsdp", **FSDP)
    return job, folder


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_learn_what_one_learns(runs: tuple[Job, Path], strategy: str) -> None:
    _, folder = runs
    for step in (1, 4):
        expected, found = (critic_weights(folder / name, step) for name in ("one", strategy))
        assert difference(expected, found) < 1e-5
        expected, found = (weights(folder / name, step) for name in ("one", strategy))
        assert difference(expected, found) < 1e-5
    assert difference(critic_weights(folder / "one", 1), critic_weights(folder / "one", 4)) > 5e-5
    one, two = metrics(folder / "one"), metrics(folder / strategy)
    assert one.keys() == two.keys()
    assert {"val/fve", "critic/loss"} & one.keys()
    for name, value in one.items():
        assert two[name] == pytest.approx(value, rel=1e-3, abs=1e-4), name


@pytest.mark.slow
def test_a_run_goes_on_sharded_from_the_checkpoint_of_one_process(runs: tuple[Job, Path], tmp_path: Path) -> None:
    job, folder = runs
    (path,) = (folder / "one" / "checkpoints").glob("*step=2.ckpt")
    two_processes(job, tmp_path / "again", ckpt_path=path, **FSDP)
    assert difference(critic_weights(folder / "one", 4), critic_weights(tmp_path / "again", 4)) < 1e-5


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_a_killed_run_goes_on_with_the_critic_as_it_was(tmp_path: Path, step: int) -> None:
    explain(tmp_path / "whole")
    process = multiprocessing.get_context("fork").Process(target=explain, args=(tmp_path / "killed", [KillAt(step)]))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    saved = (tmp_path / "killed" / "checkpoints").iterdir()
    last = max(saved, key=lambda path: int(path.stem.split("step=")[1]))
    explain(tmp_path / "resumed", ckpt_path=last)
    for read in (critic_weights, weights):
        assert difference(read(tmp_path / "whole", 4), read(tmp_path / "resumed", 4)) < ROUNDING
