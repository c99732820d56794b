"""A run that is killed and resumed ends with the weights of an unbroken one, wherever it was killed."""

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_narrative.datamodules.storyworld import StoryworldData
from lit_narrative.errors import UserError
from lit_narrative.lm.load import ScratchModel
from lit_narrative.modules.grpo import GRPOModule
from lit_narrative.modules.sft import SFTModule
from tests.runs.jobs import corpus, cycle, difference, trainer, weights

STEPS = 16
ROUNDING = 1e-6  # kernels round by the alignment of memory, which differs between processes


class KillAt(Callback):
    """SIGKILL to the own process once a number of optimizer steps is done."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Die without any chance to clean up."""
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def run_and_kill(folder: Path, policy: Path, step: int) -> Path:
    """Run in a process of its own until it dies; returns its last checkpoint."""
    process = multiprocessing.get_context("fork").Process(target=cycle, args=(folder, policy, [KillAt(step)]))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    checkpoints = list((folder / "checkpoints").iterdir())
    assert checkpoints and all(path.suffix == ".ckpt" for path in checkpoints)  # nothing half-written
    for path in checkpoints:
        torch.load(path, weights_only=True)
    return max(checkpoints, key=lambda path: int(path.stem.split("step=")[1]))


# 8 steps are a cycle, 4 a rollout batch, 2 a pass: between passes, between cycles, within a pass of the second cycle.
# Every other point is in tests/test_resume.py, on a smaller run.
@pytest.mark.parametrize("step", [*(pytest.param(step, marks=pytest.mark.slow) for step in (2, 8)), 11])
def test_a_killed_cycle_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, policy: Path, unbroken: Path, step: int
) -> None:
    last = run_and_kill(tmp_path, policy, step)
    resumed = cycle(tmp_path / "resumed", policy, ckpt_path=last)
    assert resumed.global_step == STEPS
    assert difference(weights(unbroken, STEPS), weights(tmp_path / "resumed", STEPS)) < ROUNDING


def test_the_unbroken_run_learned_something(policy: Path, unbroken: Path) -> None:
    before = torch.load(policy, weights_only=True)["state_dict"]
    after = {name: value for name, value in weights(unbroken, STEPS).items() if name in before}
    assert difference(before, after) > 1e-5


def test_sft_resumes_in_the_middle_of_an_epoch(tmp_path: Path, policy: Path) -> None:
    def sft(folder: Path, ckpt_path: Path | None = None) -> None:
        saver = ModelCheckpoint(folder / "checkpoints", save_top_k=-1, every_n_train_steps=1)
        fit = trainer(folder, saver, max_steps=7, limit_val_batches=0)
        fit.fit(SFTModule(str(policy), lr=1e-3), corpus(batch_size=4), ckpt_path=ckpt_path)

    sft(tmp_path / "whole")
    (middle,) = (tmp_path / "whole" / "checkpoints").glob("*step=2.ckpt")  # an epoch is 4 steps
    sft(tmp_path / "rest", middle)
    assert difference(weights(tmp_path / "whole", 7), weights(tmp_path / "rest", 7)) < ROUNDING


def test_a_checkpoint_loads_without_trainer_data_or_the_original_files(tmp_path: Path, unbroken: Path) -> None:
    (path,) = (unbroken / "checkpoints").glob(f"*step={STEPS}.ckpt")
    copy = tmp_path / "copy.ckpt"
    copy.write_bytes(path.read_bytes())
    module = GRPOModule.load_from_checkpoint(copy)
    state = {name: value for name, value in module.state_dict().items() if name.startswith("lm.")}
    saved = {name: value for name, value in weights(unbroken, STEPS).items() if name.startswith("lm.")}
    assert difference(saved, state) == 0.0
    prompts = corpus(batch_size=1).prompts("train")
    assert len(module.generate([prompts[0]], samples=2, seed=3)) == 2


def test_resuming_with_another_module_says_so(tmp_path: Path) -> None:
    content = {"state_dict": {}, "optimizer_states": [], "pytorch-lightning_version": "2.6.6"}
    torch.save(content, tmp_path / "other.ckpt")
    fit = trainer(tmp_path, max_steps=1)
    with pytest.raises(UserError, match="holds no language model"):
        fit.fit(SFTModule(), StoryworldData(train_size=4, val_size=4), ckpt_path=tmp_path / "other.ckpt")


class CountingModule(SFTModule):
    """Knows how many models it was given."""

    adopted = 0

    def set_model(self, lm: Any, tokenizer: Any) -> None:
        self.adopted += 1
        super().set_model(lm, tokenizer)


@pytest.mark.parametrize("told", [True, False])
def test_what_is_built_is_not_built_again_for_a_checkpoint(tmp_path: Path, policy: Path, told: bool) -> None:
    """The command line tells the Trainer of the checkpoint before it builds, a script does not."""
    module = CountingModule(str(policy))
    run = trainer(tmp_path, max_steps=151, limit_val_batches=0)
    if told:
        run.ckpt_path = str(policy)
    run.fit(module, corpus(batch_size=4), ckpt_path=None if told else policy)
    assert run.global_step == 151
    assert module.adopted == 1


def test_a_checkpoint_of_another_model_is_built_by_its_own_sizes(tmp_path: Path, policy: Path) -> None:
    module = CountingModule(ScratchModel(hidden_size=16, layers=1, heads=2))
    trainer(tmp_path).test(module, corpus(batch_size=4), ckpt_path=policy, verbose=False)
    assert module.adopted == 2
    assert difference(torch.load(policy, weights_only=True)["state_dict"], module.state_dict()) == 0
