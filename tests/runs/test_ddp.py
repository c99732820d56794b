"""Two processes learn what one process learns."""

from pathlib import Path

import pytest
import torch

from tests.runs.jobs import cycle, difference, warm_start, weights

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


def test_a_run_of_two_processes_resumes_in_the_middle_of_a_window(tmp_path: Path, policy: Path) -> None:
    options = {"accumulate_grad_batches": 2, "devices": 2, "strategy": "ddp_fork"}
    cycle(tmp_path / "whole", policy, **options)
    (middle,) = (tmp_path / "whole" / "checkpoints").glob("*step=3.ckpt")
    cycle(tmp_path / "resumed", policy, ckpt_path=middle, **options)
    assert difference(weights(tmp_path / "whole", 16), weights(tmp_path / "resumed", 16)) < 1e-6


@pytest.mark.slow
def test_the_warm_start_is_reproducible(tmp_path: Path, policy: Path) -> None:
    again = torch.load(warm_start(tmp_path), weights_only=True)["state_dict"]
    assert difference(torch.load(policy, weights_only=True)["state_dict"], again) < 1e-6
