"""Signals that ask a job to end: heard at once, obeyed where the work may be left.

The command line listens (``listening``). A training step is always finished; what comes before and after training, and
within it sampling, validation and analyses, can be left at any point (``may_be_left``): a resumed job repeats them.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """The job was asked to end; not an ``Exception``, so that nothing that expects faults keeps it.

    Args:
        number: of the signal.
        resumable: it came where the work may be left, so that what was reached can be saved.

    Attributes:
        saved: the checkpoint that was written on the way out.
    """

    def __init__(self, number: int, resumable: bool = True) -> None:
        super().__init__(signal.Signals(number).name)
        self.number, self.resumable = number, resumable
        self.saved: Path | None = None


class _Listener:
    """What was asked for, and whether the work in progress may be left."""

    def __init__(self) -> None:
        self.active = False
        self.requested: int | None = None
        self.training = False
        self.leavable = 0

    def hear(self, number: int, frame: FrameType | None) -> None:
        """Note a signal; raise where the work may be left, or at a second Ctrl-C.

        Raises:
            Interrupted: at once in those two cases.
        """
        # Schedulers send SIGTERM to every process of a job, and some twice: only a person who presses again insists.
        insists = number == signal.SIGINT and self.requested is not None
        heard, self.requested = self.requested is not None, number
        # Once it has raised, what is saved on the way out is not left again.
        if insists or (not heard and (self.leavable or not self.training)):
            raise Interrupted(number, resumable=not insists)
        # Not `print`: the signal may have come within one, and the stream cannot be entered twice.
        os.write(sys.stderr.fileno(), b"\nstopping after this step; Ctrl-C again stops at once\n")


_listener = _Listener()


def install() -> None:
    """Take over the signals, where this job listens; Python delivers them to the main thread alone."""
    if _listener.active and threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, _listener.hear)


@contextmanager
def listening() -> Iterator[None]:
    """Within the context signals are heard; before and after they do what they did."""
    here = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in SIGNALS if here}
    _listener.__init__()  # type: ignore[misc] # as new for each job of a process
    _listener.active = True
    install()
    try:
        yield
    finally:
        _listener.__init__()  # type: ignore[misc] # nor does a run in a notebook find what this one was asked for
        for number, handler in before.items():
            signal.signal(number, handler)


def requested() -> int | None:
    """The signal that asked the job to end, if one did."""
    return _listener.requested


def set_training(active: bool) -> None:
    """Say whether training steps are being made, which a signal does not cut short."""
    install()  # Lightning puts its own handler in front as a run starts
    _listener.training = active


def training() -> bool:
    """Whether training steps are being made."""
    return _listener.training


@contextmanager
def may_be_left(alone: bool = True) -> Iterator[None]:
    """Work that a signal may leave at any point.

    Args:
        alone: this is the only process; several leave together, at the end of a step.

    Raises:
        Interrupted: a signal came, before or within.
    """
    if not alone:
        yield
        return
    if _listener.requested is not None:
        raise Interrupted(_listener.requested)
    _listener.leavable += 1
    try:
        yield
    finally:
        _listener.leavable -= 1
