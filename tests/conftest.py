"""What all tests share: no network, one thread, and a seed of the run only where a test sets one."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"

import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_run_seed() -> Iterator[None]:
    """Forget the seed that a test's own run has set."""
    yield
    os.environ.pop("PL_GLOBAL_SEED", None)


@pytest.fixture
def fresh_wandb() -> Iterator[None]:
    """W&B as in a new process: its session keeps the settings that it was begun with."""
    import wandb

    wandb.teardown()
    yield
    wandb.teardown()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a small file system")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.fixture(scope="session")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a tiny policy that writes worlds that can be played."""
    from tests.runs.jobs import warm_start

    return warm_start(tmp_path_factory.mktemp("sft"))


@pytest.fixture(scope="session")
def circuits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of circuit analyses; of a model whose mechanism is known."""
    from tests.circuits.make_results import make_results

    return make_results(tmp_path_factory.mktemp("planted") / "circuits")


@pytest.fixture(scope="session")
def noisy_circuits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same analyses of the same model with other noise."""
    from tests.circuits.make_results import make_results

    return make_results(tmp_path_factory.mktemp("noisy") / "circuits", 0.05, checkpoint="runs/rl/last.ckpt")
