"""Asynchronous rewards in an event loop of their own, whatever loop the caller may run in (a notebook has one)."""

import asyncio
import threading
from collections.abc import Callable, Sequence

from lit_narrative.errors import UserError
from lit_narrative.rl.rewards import Answer, AsyncReward, TimedOut, describe, read_score
from lit_narrative.rl.rollout import Rollout


class AsyncRewards:
    """A thread with an event loop, which stays from batch to batch, so that a reward may keep a connection.

    Args:
        concurrency: calls under way at the same time, over all rewards.
        timeout: seconds that each may take.
    """

    def __init__(self, concurrency: int, timeout: float) -> None:
        self.concurrency, self.timeout = concurrency, timeout
        self._thread: threading.Thread | None = None

    def start(self, reward: AsyncReward, rollouts: Sequence[Rollout]) -> Callable[[], list[Answer]]:
        """Begin to ask about each rollout; returns at once what waits for the answers."""
        if self._thread is None:
            self._loop, self._slots = asyncio.new_event_loop(), asyncio.Semaphore(self.concurrency)
            self._thread = threading.Thread(target=_run, args=(self._loop,), name="rewards", daemon=True)
            self._thread.start()
        return asyncio.run_coroutine_threadsafe(self._gather(reward, rollouts), self._loop).result

    def close(self) -> None:
        """Cancel what is under way and end the thread; one whose reward never awaits is left behind."""
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(self.timeout)
            self._thread = None

    async def _gather(self, reward: AsyncReward, rollouts: Sequence[Rollout]) -> list[Answer]:
        return await asyncio.gather(*(self._ask(reward, rollout) for rollout in rollouts))

    async def _ask(self, reward: AsyncReward, rollout: Rollout) -> Answer:
        async with self._slots:
            try:
                async with asyncio.timeout(self.timeout):
                    return read_score(await reward.score(rollout))
            except UserError:
                raise
            except TimeoutError:
                return TimedOut(f"no answer within {self.timeout:g} s")
            except (Exception, SystemExit) as error:
                return describe(error)


def _run(loop: asyncio.AbstractEventLoop) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:  # at the end it cancels what is under way
        runner.get_loop().run_forever()
