"""Several reward workers: jobs are shared out among them, and those that hang or die are replaced."""

import threading
import weakref
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from queue import SimpleQueue

from lit_narrative.errors import UserError
from lit_narrative.rl.answers import Lost
from lit_narrative.rl.reward_jobs import Answered, Call, Job
from lit_narrative.rl.reward_worker import Worker, WorkerLost

LOSSES = 4
"""Processes that a reward may cost in one job; then the rest of its calls in that job are given up."""


class WorkerPool:
    """A fixed number of worker processes.

    Args:
        count: how many, 1 or more.
        timeout: seconds that one call of a reward may take.
        rewards: pickled rewards by name, which the workers must be able to load.

    Raises:
        UserError: a worker cannot load one of them, or no worker can be started.
    """

    def __init__(self, count: int, timeout: float, rewards: Mapping[str, bytes]) -> None:
        self.timeout = timeout
        self._workers: list[Worker | None] = [None] * count
        self._free: SimpleQueue[int] = SimpleQueue()
        self._interrupted = threading.Event()
        self._end = weakref.finalize(self, _end, self._workers)
        for place in range(count):
            self._free.put(place)
        try:
            self._workers[:] = [Worker() for _ in range(count)]
            self._worker(0).try_out(rewards)
        except WorkerLost as lost:
            self._end()
            raise UserError(
                f"a process for rewards cannot be started ({lost}); a script that trains must do so under "
                "`if __name__ == '__main__':`, or set model.scoring.workers=0"
            ) from None
        except BaseException:
            self._end()
            raise

    def run(self, jobs: Sequence[Job]) -> list[Answered]:
        """Do jobs at the same time, as many as there are workers.

        Raises:
            UserError: a reward is wrong in a way that its author has to put right.
        """
        self._interrupted.clear()
        with ThreadPoolExecutor(len(self._workers)) as threads:
            futures: list[Future[Answered]] = [threads.submit(self._run, job) for job in jobs]
            try:
                return [future.result() for future in futures]
            except BaseException:
                self._interrupted.set()
                for worker in filter(None, self._workers):
                    worker.kill()  # each thread sees its worker gone, and ends
                raise

    def close(self) -> None:
        """End all processes."""
        for worker in self._workers:
            if worker is not None:
                worker.close(patience=2.0)
        self._end()

    def _run(self, job: Job) -> Answered:
        place = self._free.get()
        try:
            return self._answers(job, place)
        finally:
            self._free.put(place)

    def _answers(self, job: Job, place: int) -> Answered:
        """Do a job, with a new worker for the rest of it each time that one is lost."""
        todo, answered, losses = deque(job.calls), Answered(), Counter[str]()
        while todo and not self._interrupted.is_set():
            try:
                for answers in self._worker(place).do(replace(job, calls=list(todo)), self.timeout):
                    answered.append((todo.popleft(), answers))
            except WorkerLost as lost:
                self._drop(place)
                call = todo.popleft()
                losses[call.name] += 1
                given_up = losses[call.name] == LOSSES
                again = [] if given_up else _again(call, lost.hung)
                if not again:
                    answered.append((call, [Lost(str(lost))] * len(call.rows)))
                todo.extendleft(reversed(again))
                if given_up:
                    rest = [other for other in todo if other.name == call.name]
                    answered += [
                        (other, [Lost(f"given up: {lost}, {LOSSES} times")] * len(other.rows)) for other in rest
                    ]
                    todo = deque(other for other in todo if other.name != call.name)
        return answered

    def _worker(self, place: int) -> Worker:
        """The worker of a place; a new one where it died between two batches."""
        worker = self._workers[place]
        if worker is None or not worker.alive:
            self._drop(place)
            worker = self._workers[place] = Worker()
        return worker

    def _drop(self, place: int) -> None:
        worker, self._workers[place] = self._workers[place], None
        if worker is not None:
            worker.close()


def _again(call: Call, hung: bool) -> list[Call]:
    """What to try after a worker was lost in a call: its completions one by one, or the whole once more if it died."""
    if call.alone and len(call.rows) > 1:
        return [replace(call, rows=[row], again=True) for row in call.rows]
    return [] if hung or call.again else [replace(call, again=True)]


def _end(workers: list[Worker | None]) -> None:
    for place, worker in enumerate(workers):
        if worker is not None:
            worker.close()
        workers[place] = None
