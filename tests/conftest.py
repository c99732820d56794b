"""What all tests share: no network, one thread, and a seed of the run only where a test sets one."""

import gc
import os
import subprocess
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"

import torch

from tests.once import MadeOnce

torch.set_num_threads(1)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Search for no garbage while the tests are imported, which make next to none and millions of objects that stay."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True, scope="module")
def nothing_old_is_searched() -> None:
    """Keep the objects there are out of Python's search for garbage.

    They are millions (the tests themselves, libraries): a search through them takes seconds, and would be taken for the
    time of whatever it interrupts.
    """
    gc.collect()
    gc.freeze()


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
def made_once(tmp_path_factory: pytest.TempPathFactory) -> MadeOnce:
    """What several tests begin from, made once for all parallel processes."""
    own = tmp_path_factory.getbasetemp()
    # Parallel processes have their folders side by side in that of the session.
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "made_once"
    folder.mkdir(exist_ok=True)
    return MadeOnce(folder)


@pytest.fixture(scope="session")
def policy(made_once: MadeOnce) -> Path:
    """A checkpoint of a tiny policy that writes worlds that can be played."""
    from tests.runs.jobs import warm_start

    return made_once("policy", warm_start) / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="session")
def circuits(made_once: MadeOnce) -> Path:
    """A folder of circuit analyses; of a model whose mechanism is known."""
    from tests.circuits.make_results import make_results

    return made_once("circuits", make_results)


@pytest.fixture(scope="session")
def noisy_circuits(made_once: MadeOnce) -> Path:
    """The same analyses of the same model with other noise."""
    from tests.circuits.make_results import make_results

    return made_once("noisy_circuits", lambda folder: make_results(folder, 0.05, checkpoint="runs/rl/last.ckpt"))
