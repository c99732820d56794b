"""Worker processes that hang, die, are killed or left behind: the batch is scored, and nothing is left over."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from lit_narrative.errors import UserError
from lit_narrative.rl.rewards.runner import RewardRunner, ScoringSettings
from tests.paths import ROOT
from tests.rl.rewards.reward_zoo import Obedient, ProcessId, Returns, Seen, Share, Sized, Threads, rollouts, same

NAN = torch.nan
SIZED = Sized(torch.tensor(1.0))
PLAIN = [Obedient("whole"), Obedient("alone"), Seen(), Share(), SIZED]


@pytest.fixture(scope="module")
def runner() -> Iterator[RewardRunner]:
    """One for all, since to start a process takes seconds."""
    rewards: dict[str, Any] = {reward.name: reward for reward in [*PLAIN, ProcessId(), Threads()]}
    settings = ScoringSettings(workers=2, timeout=1, independent=("alone", "sized"), cache_size=0)
    with RewardRunner(rewards, settings) as found:
        yield found


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


def test_values_are_those_of_this_process(runner: RewardRunner) -> None:
    rows = rollouts(*(str(n % 7) for n in range(40)), "none", "nan", "inf", vector=torch.arange(3.0))
    there = runner.score(rows)
    with RewardRunner({reward.name: reward for reward in PLAIN}) as here:  # type: ignore[misc]
        expected = here.score(rows)
    same(there.values[:, : len(PLAIN)], expected.values)
    assert there.failures == {**expected.failures, "pid": 0, "threads": 0}
    assert there.failures["whole"] == there.failures["alone"] == 2
    assert there.values[0, -2] != os.getpid() and there.values[0, -1] == 1


def test_a_reward_is_used_as_it_is_at_each_call(runner: RewardRunner) -> None:
    column = runner.names.index("sized")
    assert runner.score(rollouts("1234", vector=torch.zeros(1))).values[0, column] == 4
    SIZED.unit = torch.tensor(2.0)
    assert runner.score(rollouts("1234", vector=torch.zeros(1))).values[0, column] == 2


def test_a_hang_costs_a_part_of_the_batch_and_death_a_completion(
    runner: RewardRunner, caplog: pytest.LogCaptureFixture
) -> None:
    began = time.monotonic()
    scores = runner.score(rollouts("die", "hang", "1", "4", vector=torch.zeros(1)))  # to one die, 1; to another hang, 4
    assert 1 < time.monotonic() - began < 40
    same(scores.values[:, :2], [[NAN, NAN], [NAN, NAN], [NAN, 1], [NAN, NAN]])
    assert [*scores.failures.values()] == [4, 3, 0, 0, 0, 0, 0]
    assert (
        "'whole': 4 of 4 completions have no score; first cause: its worker process died (exit code 7)" in caplog.text
    )


@pytest.mark.slow
def test_a_worker_killed_between_batches_is_replaced(runner: RewardRunner) -> None:
    rows = rollouts("1", "2", vector=torch.zeros(1))
    first = int(runner.score(rows).values[0, -2])
    os.kill(first, signal.SIGKILL)
    time.sleep(0.5)
    scores = runner.score(rows)
    assert sum(scores.failures.values()) == 0
    assert scores.values[0, -2] != first and gone(first)


@pytest.mark.slow
def test_errors_come_from_workers_and_end_them() -> None:
    before = len(multiprocessing.active_children())
    runner = RewardRunner({"bad": Returns([])}, ScoringSettings(workers=1))
    with pytest.raises(UserError, match="'bad' returned 0 scores for 1 completions"):
        runner.score(rollouts("a"))
    assert len(multiprocessing.active_children()) == before


@pytest.mark.slow
def test_a_reward_that_only_this_process_knows_is_lost(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    notebook = ModuleType("a_notebook")
    exec("class Mine:\n    def __call__(self, rollouts):\n        return [1.0] * len(rollouts)", notebook.__dict__)
    monkeypatch.setitem(sys.modules, "a_notebook", notebook)
    with RewardRunner({"mine": notebook.Mine()}, ScoringSettings(workers=1)) as runner:
        assert runner.score(rollouts("a")).failures == {"mine": 1}
    assert "a worker process died, at its start" in caplog.text


PROGRAM = """
import multiprocessing, os, signal, sys, threading
from lit_narrative.rl.rewards.runner import RewardRunner, ScoringSettings
from tests.rl.rewards.reward_zoo import Obedient, ProcessId, rollouts

def score(kill=None, sent=None):
    runner = RewardRunner({"pid": ProcessId(), "obedient": Obedient()}, ScoringSettings(workers=1))
    print(int(runner.score(rollouts("1")).values[0, 0]), flush=True)
    if kill:
        threading.Timer(0.3, lambda: kill(os.getpid(), sent)).start()
        runner.score(rollouts("hang"))

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # programs in the background ignore it
    if sys.argv[1] == "kill":
        score(os.kill, signal.SIGKILL)
    child = multiprocessing.get_context("fork").Process(target=score)
    child.start()
    child.join()  # ends by itself, though nothing there was closed
    try:
        score(os.killpg, signal.SIGINT)  # Ctrl-C reaches the worker too
    except KeyboardInterrupt:
        sys.exit(child.exitcode or len(multiprocessing.active_children()))
"""


@pytest.mark.slow
def test_nothing_is_left_when_a_program_is_done_interrupted_or_killed(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    options |= {"env": {**os.environ, "PYTHONPATH": str(ROOT)}, "start_new_session": True}
    runs = [subprocess.Popen([sys.executable, program, how], **options) for how in ("interrupt", "kill")]
    for process, code, workers in zip(runs, (0, -signal.SIGKILL), (2, 1), strict=True):
        out, errors = process.communicate(timeout=60)  # nobody waits for what hangs
        assert (process.returncode, len(out.split())) == (code, workers), errors
        assert "Traceback" not in errors
        assert all(gone(int(worker)) for worker in out.split())
