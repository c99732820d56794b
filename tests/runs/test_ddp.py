"""Two processes learn what one process learns."""

import os
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from lit_narrative.lm.tokenizer import TrainedTokenizer
from lit_narrative.modules.sft import SFTModule
from tests.helpers import TinyTask, sizes
from tests.rewards import VOCABULARY
from tests.runs.jobs import cycle, difference, trainer, warm_start, weights
from tests.runs.processes import two_processes

pytestmark = pytest.mark.ddp


def test_two_processes_train_the_same_cycle_as_one(tmp_path: Path, policy: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    single = cycle(one, policy, accumulate_grad_batches=4)
    double = cycle(two, policy, accumulate_grad_batches=4, devices=2, strategy="ddp_fork")
    for name in (
        "reward",
        "cycle/reward",
        "cycle/valid_worlds",
        "cycle/explained_variance",
        "cycle/significant_features",
    ):
        assert float(double.callback_metrics[name]) == pytest.approx(float(single.callback_metrics[name]), abs=1e-4)
    for step in (1, 8):  # the first optimizer step, and the last after two cycles
        assert difference(weights(one, step), weights(two, step)) < 1e-5


@pytest.mark.slow
def test_a_run_of_two_processes_resumes_in_the_middle_of_a_rollout_batch(tmp_path: Path, policy: Path) -> None:
    options = {"accumulate_grad_batches": 2, "devices": 2, "strategy": "ddp_fork"}
    cycle(tmp_path / "whole", policy, **options)
    (middle,) = (tmp_path / "whole" / "checkpoints").glob("*step=3.ckpt")
    cycle(tmp_path / "resumed", policy, ckpt_path=middle, **options)
    assert difference(weights(tmp_path / "whole", 16), weights(tmp_path / "resumed", 16)) < 1e-6


class AskedTask(TinyTask):
    """Leaves a file for each process that wants texts for a tokenizer."""

    def tokenizer_texts(self) -> Iterable[str]:
        assert self.trainer is not None
        Path(self.trainer.default_root_dir, f"asked_{os.getpid()}").touch()
        return super().tokenizer_texts()


def from_scratch(folder: Path) -> None:
    run = trainer(folder, max_steps=1, num_nodes=2, devices=1, strategy="ddp", limit_val_batches=0)
    run.fit(SFTModule(sizes(), TrainedTokenizer(VOCABULARY)), AskedTask(batch_size=2))


def test_one_process_of_all_nodes_trains_the_tokenizer(tmp_path: Path) -> None:
    """The run folder is one for all nodes: two that put a tokenizer there at once would be in each other's way."""
    two_processes(from_scratch, tmp_path, nodes=2)
    assert len(list(tmp_path.glob("asked_*"))) == 1
    assert (tmp_path / "tokenizer").is_dir()


@pytest.mark.slow
def test_the_warm_start_is_reproducible(tmp_path: Path, policy: Path) -> None:
    again = torch.load(warm_start(tmp_path), weights_only=True)["state_dict"]
    assert difference(torch.load(policy, weights_only=True)["state_dict"], again) < 1e-6
