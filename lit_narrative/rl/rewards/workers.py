"""Rewards outside of the training thread: in worker processes, which can be stopped, and in an event loop.

Everything is sent to workers pickled to bytes: multiprocessing would pass tensors as file descriptors of shared memory,
and thousands of small ones exhaust those.
"""

import asyncio
import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing.util import Finalize
from typing import Any

import torch
from pebble import ProcessExpired, ProcessFuture, ProcessPool

from lit_narrative.errors import UserError
from lit_narrative.rl.rewards.base import Answer, AsyncReward, Lost, Reward, TimedOut, ask, describe, read_score
from lit_narrative.views import Rollout

THREADS_A_CALL = 8
"""Threads of `asyncio.to_thread` at most, for each call that may be under way."""
TENSORS = ("prompt_ids", "completion_ids", "logprobs")


class RewardWorkers:
    """A pool of processes.

    Args:
        count: how many.
        timeout: seconds that a call of a reward may take.
        rewards: by name; their modules are imported before the time of a first call begins.
    """

    def __init__(self, count: int, timeout: float, rewards: Mapping[str, Reward]) -> None:
        self.count, self.timeout = count, timeout
        self._rewards = [pickled(reward, f"reward '{name}'") for name, reward in rewards.items()]
        self._open()

    def start(self, name: str, reward: Reward, rollouts: Sequence[Rollout]) -> Callable[[], list[Answer]]:
        """Begin to call a reward as it is now; returns at once a function that waits for the answers."""
        if not self._pool.active:  # a process that died while it had nothing to do has taken the others with it
            self.close()
            self._open()
        # `force` detaches tensors and brings them to the CPU.
        arrays: list[dict[str, Any]] = [{n: getattr(r, n).numpy(force=True) for n in TENSORS} for r in rollouts]
        plain = [replace(r, **given) for r, given in zip(rollouts, arrays, strict=True)]
        job = (name, pickled(reward, f"reward '{name}'"), pickled(plain, "what a prompt carries in its columns"))
        future = self._pool.schedule(_do, job, timeout=self.timeout)
        return lambda: self._answers(future, len(rollouts))

    def _open(self) -> None:
        # Spawned and not forked: a fork copies the locks of this process's threads as they are, locked for ever.
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPool(self.count, initializer=_prepare, initargs=(self._rewards,), context=context)
        # Forked processes run no atexit functions when they end, and would wait for their workers for ever.
        self.close = Finalize(self, _close, (self._pool,), exitpriority=10)

    def _answers(self, future: ProcessFuture[list[Answer]], count: int) -> list[Answer]:
        try:
            return future.result()
        except TimeoutError:
            return [TimedOut(f"no answer within {self.timeout:g} s")] * count
        except ProcessExpired as error:
            return [Lost(f"its worker process died (exit code {error.exitcode})")] * count
        except BrokenProcessPool:
            return [Lost("a worker process died, at its start if its own message above says so")] * count


def pickled(value: Any, what: str) -> bytes:
    """Pickle something.

    Raises:
        UserError: it cannot be pickled; the message names ``what``.
    """
    try:
        return pickle.dumps(value)
    except Exception as error:
        raise UserError(
            f"{what} cannot be pickled ({error}); define it at the top level of a module, and open files, locks and "
            "connections when they are used"
        ) from error


def _close(pool: ProcessPool) -> None:
    pool.stop()
    pool.join()


def _prepare(rewards: Sequence[bytes]) -> None:
    torch.set_num_threads(1)  # one each: the workers fill the cores together
    threading.Thread(target=_follow_owner, daemon=True).start()
    for reward in rewards:
        pickle.loads(reward)


def _follow_owner() -> None:
    multiprocessing.parent_process().join()  # type: ignore[union-attr]
    os._exit(1)  # a reward that hangs would outlive an owner that was killed


def _do(name: str, reward: bytes, packed: bytes) -> list[Answer]:
    rollouts = [replace(r, **{n: torch.from_numpy(getattr(r, n)) for n in TENSORS}) for r in pickle.loads(packed)]
    return ask(name, pickle.loads(reward), rollouts)


class AsyncRewards:
    """A thread with an event loop, which stays from batch to batch, so that a reward may keep a connection.

    Args:
        concurrency: calls at the same time, over all rewards.
        timeout: seconds that each may take.
    """

    def __init__(self, concurrency: int, timeout: float) -> None:
        self.concurrency, self.timeout = concurrency, timeout
        self._thread: threading.Thread | None = None

    def start(self, reward: AsyncReward, rollouts: Sequence[Rollout]) -> Callable[[], list[Answer]]:
        """Begin to ask about each rollout; returns at once a function that waits for the answers."""
        if self._thread is None:
            self._loop, self._slots = asyncio.new_event_loop(), asyncio.Semaphore(self.concurrency)
            # asyncio's own has as many threads as cores and 4 more, whatever the concurrency; a call that waits for one
            # would spend its time so. More than the calls under way: one that timed out keeps its thread.
            threads = ThreadPoolExecutor(THREADS_A_CALL * self.concurrency, thread_name_prefix="rewards")
            self._loop.set_default_executor(threads)
            # A daemon: a reward that never awaits cannot be cancelled, and must not keep the interpreter alive.
            self._thread = threading.Thread(target=_run, args=(self._loop,), name="rewards", daemon=True)
            self._thread.start()
        return asyncio.run_coroutine_threadsafe(self._gather(reward, rollouts), self._loop).result

    def close(self) -> None:
        """Cancel the running calls and end the thread; one whose reward never awaits is left behind."""
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(self.timeout)
            self._thread = None

    async def _gather(self, reward: AsyncReward, rollouts: Sequence[Rollout]) -> list[Answer]:
        return await asyncio.gather(*(self._ask(reward, rollout) for rollout in rollouts))

    async def _ask(self, reward: AsyncReward, rollout: Rollout) -> Answer:
        async with self._slots:
            try:
                # Within the slot: the time that a call waits for its turn does not count.
                async with asyncio.timeout(self.timeout):
                    return read_score(await reward.score(rollout))
            except UserError:
                raise
            except TimeoutError:
                return TimedOut(f"no answer within {self.timeout:g} s")
            except (Exception, SystemExit) as error:
                return describe(error)


def _run(loop: asyncio.AbstractEventLoop) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:  # at the end it cancels the calls that still run
        runner.get_loop().run_forever()
