"""Worker processes that hang, die, are killed or left behind: the batch goes on, and nothing is left over."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_narrative.rl.scoring import RewardRunner, ScoringSettings
from tests.rl.reward_zoo import Obedient, ProcessId, Share, Threads, rollouts

NAN = torch.nan
ROOT = Path(__file__).resolve().parents[2]


def same(values: torch.Tensor, expected: list[Any]) -> None:
    torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float32), rtol=0, atol=1e-6, equal_nan=True)


def alive(process: int) -> bool:
    """Whether a process is there; one that only waits to be buried is not, where the system tells."""
    try:
        os.kill(process, 0)
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except FileNotFoundError:
        return not Path("/proc").exists()


def gone(process: int, seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while alive(process) and time.monotonic() < end:
        time.sleep(0.02)
    return not alive(process)


def test_a_hang_costs_a_reward_of_the_batch_its_batch_and_no_other(caplog: pytest.LogCaptureFixture) -> None:
    rewards = {"obedient": Obedient(), "share": Share(), "pid": ProcessId()}
    with RewardRunner(rewards, ScoringSettings(workers=1, timeout=0.5)) as runner:
        began = time.monotonic()
        scores = runner.score(rollouts("1", "hang"))
        assert 0.5 < time.monotonic() - began < 5
        same(scores.values[:, :2], [[NAN, 1], [NAN, 1]])
        assert scores.failures == {"obedient": 2, "share": 0, "pid": 0}
        assert "'obedient': 2 of 2 completions have no score; first cause: no answer within 0.5 s" in caplog.text
        again = runner.score(rollouts("1", "2"))
        same(again.values[:, :2], [[1, 1], [2, 1]])
        assert again.values[0, 2] == scores.values[0, 2], "one new process, not one a batch"


def test_a_hang_costs_an_independent_reward_that_completion() -> None:
    settings = ScoringSettings(workers=2, timeout=0.5, independent=("obedient",))
    with RewardRunner({"obedient": Obedient()}, settings) as runner:
        scores = runner.score(rollouts("1", "2", "hang", "4", "5", "6"))
    same(scores.values[:, 0], [1, 2, NAN, 4, 5, 6])
    assert scores.failures == {"obedient": 1}


def test_a_reward_that_always_hangs_is_given_up_before_long(caplog: pytest.LogCaptureFixture) -> None:
    settings = ScoringSettings(workers=1, timeout=0.2, independent=("obedient",), cache_size=0)
    with RewardRunner({"obedient": Obedient(), "share": Share()}, settings) as runner:
        began = time.monotonic()
        scores = runner.score(rollouts(*["hang"] * 50))
        assert time.monotonic() - began < 6, "four hangs, not fifty"
    assert scores.failures == {"obedient": 50, "share": 0}


def test_a_completion_that_ends_the_process_is_set_apart(caplog: pytest.LogCaptureFixture) -> None:
    settings = ScoringSettings(workers=2, independent=("obedient",))
    with RewardRunner({"obedient": Obedient(), "share": Share()}, settings) as runner:
        scores = runner.score(rollouts("1", "die", "3", "4"))
    same(scores.values, [[1, 1], [NAN, 1], [3, 1], [4, 1]])
    assert "1 of 4 completions have no score; first cause: its worker process died (exit code 7)" in caplog.text


def test_a_reward_of_the_batch_that_ends_its_process_twice_is_lost(tmp_path: Path) -> None:
    notes = tmp_path / "asked"
    with RewardRunner({"obedient": Obedient(notes=notes)}, ScoringSettings(workers=1)) as runner:
        assert runner.score(rollouts("1", "die")).failures == {"obedient": 2}
    assert notes.read_text().split() == ["1", "die"] * 2


@pytest.mark.parametrize("at_work", [False, True])
def test_a_killed_worker_is_replaced_and_nothing_lost(at_work: bool, tmp_path: Path) -> None:
    settings = ScoringSettings(workers=1, timeout=30)
    with RewardRunner({"pid": ProcessId(), "slow": Slow(tmp_path)}, settings) as runner:
        first = int(runner.score(rollouts("a")).values[0, 0])
        if at_work:
            (tmp_path / "kill").touch()  # the reward kills its own process from outside, half a second into its work
        else:
            os.kill(first, signal.SIGKILL)
        scores = runner.score(rollouts("a", "b"))
    same(scores.values[:, 1], [1, 1])
    assert scores.failures == {"pid": 0, "slow": 0}
    assert gone(first)


class Slow:
    """Where a file says so, has its process killed once while it works."""

    name = "slow"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, rollouts: list[object]) -> list[float]:
        order = self.folder / "kill"
        if order.exists():
            order.unlink()
            subprocess.Popen(["kill", "-9", str(os.getpid())])
            time.sleep(30)
        return [1.0] * len(rollouts)


def test_workers_are_single_threaded() -> None:
    with RewardRunner({"threads": Threads()}, ScoringSettings(workers=1)) as runner:
        same(runner.score(rollouts("a")).values[0], [1])


def test_rewards_run_in_parallel(tmp_path: Path) -> None:
    rewards = {"one": Meeting("one", "two", tmp_path), "two": Meeting("two", "one", tmp_path)}
    with RewardRunner(rewards, ScoringSettings(workers=2)) as runner:
        same(runner.score(rollouts("a")).values, [[1, 1]])


@dataclass
class Meeting:
    """Waits until another is at work too."""

    name: str
    other: str
    folder: Path

    def __call__(self, rollouts: list[object]) -> list[float]:
        (self.folder / self.name).touch()
        end = time.monotonic() + 20
        while not (met := (self.folder / self.other).exists()) and time.monotonic() < end:
            time.sleep(0.01)
        return [float(met)] * len(rollouts)


def test_nothing_is_left_after_close() -> None:
    runner = RewardRunner({"pid": ProcessId()}, ScoringSettings(workers=2))
    process = int(runner.score(rollouts("a")).values[0, 0])
    assert alive(process)
    runner.close()
    assert gone(process, 0.5)
    runner.close()
    with pytest.raises(RuntimeError, match="closed"):
        runner.score(rollouts("a"))


PROGRAM = """
import os, signal, sys, threading
from lit_narrative.rl.scoring import RewardRunner, ScoringSettings
from tests.rl.reward_zoo import Obedient, ProcessId, rollouts

def hang(sent):
    reach = os.killpg if sent == signal.SIGINT else os.kill  # Ctrl-C reaches the workers too
    threading.Timer(0.5, lambda: reach(os.getpid(), sent)).start()
    runner.score(rollouts("hang"))

if __name__ == "__main__":
    runner = RewardRunner({"pid": ProcessId(), "obedient": Obedient()}, ScoringSettings(workers=2, timeout=60))
    print(int(runner.score(rollouts("1")).values[0, 0]), flush=True)
    if sys.argv[1] == "kill":
        try:
            hang(signal.SIGINT)
        except KeyboardInterrupt:
            print(int(runner.score(rollouts("1")).values[0, 0]), flush=True)
            hang(signal.SIGKILL)
"""


def test_nothing_is_left_when_the_program_ends(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    runs = [
        subprocess.Popen(
            [sys.executable, program, how],
            env=environment,
            stdout=pipe,
            stderr=pipe,
            text=True,
            start_new_session=True,
        )
        for how in ("end", "kill")
    ]
    for process, code, workers in zip(runs, (0, -signal.SIGKILL), (1, 2), strict=True):
        out, errors = process.communicate(timeout=50)  # nobody waits for what hangs
        assert (process.returncode, errors) == (code, "")
        assert len(set(out.split())) == workers, "after Ctrl-C there are new ones"
        assert all(gone(int(worker)) for worker in out.split())
