"""Two processes of one run: one of them dies, or has a signal; the other knows."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.kills import SETTINGS

pytestmark = [pytest.mark.slow, pytest.mark.ddp]


@pytest.fixture
def run(tmp_path: Path) -> subprocess.Popen[str]:
    """An endless fit of two processes that has saved its first step."""
    config = tmp_path / "run.yaml"
    config.write_text(SETTINGS.replace("max_epochs: 2", "max_epochs: 10000\n  devices: 2\n  strategy: ddp"))
    settings = [f"--config={config}", f"--trainer.default_root_dir={tmp_path / 'run'}", "--data.init_args.batch_size=2"]
    command = [sys.executable, "-m", "lit_narrative", "fit", *settings]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists() and time.monotonic() < until:
        time.sleep(0.1)
    return process


def ranks(first: subprocess.Popen[str]) -> list[int]:
    children = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
    return [first.pid, int(children[0])]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_dies_is_named(run: subprocess.Popen[str], tmp_path: Path, rank: int) -> None:
    os.kill(ranks(run)[rank], signal.SIGKILL)
    killed = time.monotonic()
    message = run.communicate(timeout=60)[1]  # until the other one has closed its end too
    assert time.monotonic() - killed < 20
    assert run.returncode == (-signal.SIGKILL if rank == 0 else 2)
    last = [line for line in message.splitlines() if line.startswith("error")]
    assert len(last) == 1 and f"process {rank} of 0 to 1 ended" in last[0]
    assert f"--ckpt_path={tmp_path / 'run' / 'checkpoints' / 'last.ckpt'}" in last[0]
    assert "Traceback" not in message


@pytest.mark.parametrize("to", [[0], [1], [0, 1]], ids=str)
def test_all_processes_end_after_the_same_step(run: subprocess.Popen[str], tmp_path: Path, to: list[int]) -> None:
    for pid in [ranks(run)[rank] for rank in to]:
        os.kill(pid, signal.SIGTERM)
    message = run.communicate(timeout=60)[1]
    assert run.returncode == 128 + signal.SIGTERM
    assert message.count("stopped by SIGTERM") == 1 and "Traceback" not in message
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["resume"]["point"] == "step"
