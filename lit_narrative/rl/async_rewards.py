"""Asynchronous rewards in an event loop of their own, whatever loop the caller may run in (a notebook has one)."""

import asyncio
import concurrent.futures
import threading
import weakref
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from lit_narrative.errors import UserError
from lit_narrative.rl.answers import FAULTS, Answer, Lost, cause_of, read_score
from lit_narrative.rl.rewards import AsyncReward
from lit_narrative.rl.rollout import Rollout

GRACE = 5.0
"""Seconds beyond the time limit of a call after which an event loop that answers nothing counts as blocked."""


class Question(NamedTuple):
    """One completion for one asynchronous reward."""

    name: str
    reward: AsyncReward
    rollout: Rollout


@dataclass
class Asked:
    """Questions that are being asked, the answers so far by their numbers, and how often each reward is silent."""

    questions: Sequence[Question]
    answers: dict[int, Answer] = field(default_factory=dict)
    silent: Counter[str] = field(default_factory=Counter)
    done: "concurrent.futures.Future[None] | None" = None


class AsyncRewards:
    """Asks asynchronous rewards, a bounded number of calls at a time.

    A reward that leaves as many calls in a row unanswered as may be under way is not asked again in that batch: a dead
    judge costs a batch about two time limits. The event loop lives as long as this object, so that a reward may keep
    a connection from one batch to the next.

    Args:
        concurrency: calls under way at the same time, over all rewards.
        timeout: seconds that each may take.
    """

    def __init__(self, concurrency: int, timeout: float) -> None:
        self.concurrency, self.timeout = concurrency, timeout
        self._loop: _LoopThread | None = None

    def start(self, questions: Sequence[Question]) -> Asked:
        """Begin to ask; returns at once."""
        asked = Asked(questions)
        if questions:
            self._loop = self._loop or _LoopThread()
            asked.done = asyncio.run_coroutine_threadsafe(self._gather(asked), self._loop.loop)
        return asked

    def finish(self, asked: Asked) -> list[Answer]:
        """Wait for the answers, in the order of the questions; what is missing is `Lost`.

        Raises:
            UserError: a reward raised such an error.
        """
        answered = 0
        while asked.done is not None:
            try:
                asked.done.result(self.timeout + GRACE)
                break
            except concurrent.futures.TimeoutError:
                # By now at least one call has ended, unless one never awaits or ignores that it is cancelled.
                if len(asked.answers) == answered:
                    self.close()
                    break
                answered = len(asked.answers)
            except ExceptionGroup as group:
                raise group.exceptions[0] from None
        missing = Lost("the event loop is blocked: a call never awaits; use asynchronous clients, or asyncio.to_thread")
        return [asked.answers.get(number, missing) for number in range(len(asked.questions))]

    def close(self) -> None:
        """Cancel what is under way and end the event loop; the next `start` makes a new one."""
        if self._loop is not None:
            self._loop.close()
            self._loop = None

    async def _gather(self, asked: Asked) -> None:
        slots = asyncio.Semaphore(self.concurrency)

        async def answer(number: int, question: Question) -> None:
            async with slots:
                asked.answers[number] = await self._ask(question, asked.silent)

        async with asyncio.TaskGroup() as tasks:
            for number, question in enumerate(asked.questions):
                tasks.create_task(answer(number, question))

    async def _ask(self, question: Question, silent: Counter[str]) -> Answer:
        if silent[question.name] >= self.concurrency:
            return Lost(f"not asked any more: {silent[question.name]} calls in a row took over {self.timeout:g} s")
        limit = asyncio.timeout(self.timeout)
        try:
            async with limit:
                answer = read_score(await question.reward.score(question.rollout))
        except UserError:
            raise
        except FAULTS as error:
            if limit.expired():
                silent[question.name] += 1
                return Lost(f"no answer within {self.timeout:g} s")
            answer = Lost(cause_of(error))
        silent[question.name] = 0
        return answer


class _LoopThread:
    """An event loop that runs in a thread until it is closed or nobody holds it."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=_run, args=(self.loop,), name="rewards", daemon=True)
        self._thread.start()
        self._stop = weakref.finalize(self, self.loop.call_soon_threadsafe, self.loop.stop)

    def close(self) -> None:
        """Stop the loop; a thread that is blocked is left behind, and cannot keep the program from ending."""
        self._stop()
        self._thread.join(GRACE)


def _run(loop: asyncio.AbstractEventLoop) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:  # on leaving, cancels tasks and closes generators
        runner.get_loop().run_forever()
