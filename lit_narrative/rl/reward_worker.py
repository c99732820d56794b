"""A process that runs rewards: single-threaded, and gone when its owner is."""

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from lit_narrative.errors import UserError
from lit_narrative.rl.answers import Answer, ask
from lit_narrative.rl.reward_jobs import Job, unpack, unsendable

LOAD_SECONDS = 120.0
"""What a process may take to start, and to import what a reward needs."""
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

Message = Job | dict[str, bytes]
"""A job; or pickled rewards by name, only to see whether they can be loaded."""
Reply = list[Answer] | UserError | None
"""Answers to a call; what its author has to put right; None when all of a message is loaded."""


class WorkerLost(Exception):
    """A process died, or gave no answer in time.

    Attributes:
        hung: whether it is the latter.
    """

    def __init__(self, cause: str, hung: bool) -> None:
        super().__init__(cause)
        self.hung = hung


class Worker:
    """One process, which does a job at a time."""

    _starting = threading.Lock()

    def __init__(self) -> None:
        methods = multiprocessing.get_all_start_methods()
        context: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
        if "forkserver" in methods:
            context.set_forkserver_preload([__name__])  # PyTorch is imported once, not by every process
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), name="reward", daemon=True)
        with self._starting, theirs:
            self._process.start()
        self._started = False

    @property
    def alive(self) -> bool:
        """Whether the process is there."""
        return self._process.is_alive()

    def do(self, job: Job, timeout: float) -> Iterator[list[Answer]]:
        """Answers to the calls of a job, as they come.

        Raises:
            UserError: a reward is wrong in a way that its author has to put right.
            WorkerLost: the process died, or took longer than ``timeout`` seconds for a call.
        """
        self._load(job)
        for _ in job.calls:
            yield self._receive(timeout) or []

    def try_out(self, rewards: Mapping[str, bytes]) -> None:
        """Have the process unpickle rewards.

        Raises:
            UserError: it cannot; the message names the reward.
            WorkerLost: the process died.
        """
        self._load(dict(rewards))

    def kill(self) -> None:
        """Kill the process, and leave the connection to the thread that may be waiting on it."""
        self._process.kill()

    def close(self, patience: float = 0.0) -> None:
        """End the process, which has ``patience`` seconds to do so by itself."""
        self._connection.close()
        if patience:
            self._process.join(patience)
        self._process.kill()
        self._process.join(5)

    def _load(self, message: Message) -> None:
        if not self._started:
            self._receive(LOAD_SECONDS)
            self._started = True
        try:
            self._connection.send_bytes(pickle.dumps(message))
        except OSError:
            raise self._dead() from None
        self._receive(LOAD_SECONDS)

    def _receive(self, timeout: float) -> list[Answer] | None:
        try:
            if not self._connection.poll(timeout):
                raise WorkerLost(f"no answer within {timeout:g} s", hung=True)
            reply: Reply = pickle.loads(self._connection.recv_bytes())
        except (EOFError, OSError):
            raise self._dead() from None
        if isinstance(reply, UserError):
            raise reply
        return reply

    def _dead(self) -> WorkerLost:
        self._process.join(1)
        return WorkerLost(f"its worker process died (exit code {self._process.exitcode})", hung=False)


# --- within the process -----------------------------------------------------------------------------------------------


def _serve(connection: Connection) -> None:
    """Do jobs until the other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the owner ends its workers
    threading.Thread(target=_follow_owner, daemon=True).start()
    os.environ.update(dict.fromkeys(THREADS, "1"))  # for libraries loaded from here on
    threadpool_limits(1)
    torch.set_num_threads(1)
    with connection:
        try:
            connection.send_bytes(pickle.dumps(None))
            while True:
                for reply in _replies(pickle.loads(connection.recv_bytes())):
                    connection.send_bytes(pickle.dumps(reply))
        except (EOFError, OSError):
            return


def _follow_owner() -> None:
    owner = multiprocessing.parent_process()
    assert owner is not None
    wait([owner.sentinel])
    os._exit(1)  # a reward that hangs would otherwise outlive it


def _replies(message: Message) -> Iterator[Reply]:
    try:
        if isinstance(message, dict):
            for name, pickled in message.items():
                _unpickle(name, pickled)
            yield None
            return
        rewards = _unpickle(", ".join(sorted({call.name for call in message.calls})), message.rewards)
        rollouts = unpack(message.rollouts)
        yield None
        for call in message.calls:
            yield ask(call.name, rewards[call.name], [rollouts[row] for row in call.rows], call.alone)
    except UserError as error:
        yield error


def _unpickle(name: str, pickled: bytes) -> Any:
    try:
        return pickle.loads(pickled)
    except Exception as error:
        raise unsendable(name, f"{type(error).__name__}: {error}") from None
