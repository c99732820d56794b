"""How far a job of a recipe is: what the job says of it, a JSON line at a time through a pipe, and both its ends."""

import json
import math
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace

from lit_narrative.report.format import number, percent

VARIABLE = "LIT_NARRATIVE_PROGRESS"
"""Environment variable by which a job learns the number of its end of the pipe."""
_EVERY = 0.5
"""Seconds between two readings at least, while nothing but the number of steps changes."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How far a job is.

    Attributes:
        phase: what it does, such as ``learning``.
        done: of its steps.
        total: of its steps; None where it is not known.
        unit: what a step is called.
        epoch: which one of how many, in words; empty where there is one or none.
        left: seconds that the other steps will take if they are like those before; None where it is not known.
        figures: the latest value of each metric that is shown, by the name under which it is.
    """

    phase: str = "starting"
    done: int = 0
    total: int | None = None
    unit: str = "step"
    epoch: str = ""
    left: float | None = None
    figures: Mapping[str, float] = field(default_factory=dict)

    @property
    def share(self) -> float | None:
        """Of the steps that are done, in [0, 1]; None where their number is not known."""
        return None if not self.total else min(self.done / self.total, 1.0)

    def line(self) -> bytes:
        """The reading as it goes through the pipe."""
        return json.dumps(asdict(self)).encode() + b"\n"


def figures_of(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics that a view shows, under short names, as far as they are there.

    They are the reward, the verifiers' total, the share of sound texts, and the loss.

    Those of a validation or a test come before those of the batch that was learned from.
    """
    shown = {}
    for name in ("reward", "verifiers", "sound", "loss"):
        keys = (f"test/{name}", f"val/{name}", f"rewards/{name}/mean", f"train/{name}", name)
        known = [metrics[key] for key in keys if key in metrics and math.isfinite(metrics[key])]
        if known:
            shown[name] = float(known[0])
    return shown


def describe_figures(figures: Mapping[str, float]) -> list[str]:
    """Figures in words; the loss of a policy gradient says nothing, and so it stands only where there is no reward."""
    shown = [name for name in figures if name != "loss" or "reward" not in figures]
    return [f"{name} {percent(figures[name]) if name == 'sound' else number(figures[name])}" for name in shown]


def clock(seconds: float) -> str:
    """A time as ``m:ss`` or ``h:mm:ss``."""
    minutes, rest = divmod(round(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Meter:
    """The recipe's end of a job's pipe, and the latest that came through it."""

    def __init__(self) -> None:
        self._read, self.given = os.pipe()
        """This process's end, and the job's."""
        os.set_blocking(self._read, False)
        self.latest = Reading()
        self._buffer = b""

    def read(self) -> Reading:
        """The latest reading of the job; the one before where it said nothing new."""
        while chunk := self._chunk():
            *lines, self._buffer = (self._buffer + chunk).split(b"\n")
            if lines:
                self.latest = Reading(**json.loads(lines[-1]))
        return self.latest

    def _chunk(self) -> bytes:
        try:
            return os.read(self._read, 2**16)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        """Let go of the pipe."""
        os.close(self._read)


class ProgressPipe:
    """A job's end of the pipe; the job never waits for it, and goes on where nobody reads.

    Args:
        descriptor: of the end.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._process = descriptor, os.getpid()
        os.set_blocking(descriptor, False)
        os.set_inheritable(descriptor, False)
        self._latest = Reading()
        self._sent = self._since = 0.0
        self._begun = 0

    def begin(self, done: int = 0) -> None:
        """Start the clock of the time left; a job that resumes has made ``done`` steps already."""
        self._since, self._begun = time.monotonic(), done

    def tell(self, phase: str, done: int, total: int | None, unit: str, epoch: str = "") -> None:
        """Say how far the job is: see `Reading`."""
        gone, fresh = time.monotonic() - self._since, done - self._begun
        left = gone * (total - done) / fresh if total is not None and fresh > 0 else None
        self._say(Reading(phase, done, total, unit, epoch, left, self._latest.figures))

    def tell_phase(self, phase: str) -> None:
        """Say what the job does now; its steps stand."""
        self._say(replace(self._latest, phase=phase))

    def tell_figures(self, metrics: Mapping[str, float]) -> None:
        """Say the latest of the figures that a view shows."""
        if figures := figures_of(metrics):
            self._say(replace(self._latest, figures={**self._latest.figures, **figures}))

    def _say(self, reading: Reading) -> None:
        before, self._latest = self._latest, reading
        soon = time.monotonic() - self._sent < _EVERY
        if soon and reading.phase == before.phase and reading.done != reading.total:
            return
        # A process that was forked or spawned has another file under this number, or none.
        if os.getpid() == self._process:
            self._sent = time.monotonic()
            # A full pipe: the recipe is busy, and the next line says all that this one does. A broken one: it is gone.
            with suppress(BlockingIOError, BrokenPipeError):
                os.write(self._descriptor, reading.line())


def pipe_of_recipe() -> ProgressPipe | None:
    """The pipe to the recipe that started this process; None where none did, and when asked again."""
    # Taken out, so that no process which this one starts takes the pipe for its own.
    number = os.environ.pop(VARIABLE, None)
    return None if number is None else ProgressPipe(int(number))
