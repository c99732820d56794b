"""CPU and wall time of steps, and which part of a step the CPU time went to.

Parts are timed around the real functions of the library that is measured. They exclude each other: while a timed
function runs inside another one, only the inner part's clock runs. What no timed function covers is ``other``.
"""

import functools
import os
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

OTHER = "other"
PARTS = (
    "prefill",
    "decode",
    "old log-probs",
    "reference",
    "policy forward",
    "backward",
    "optimiser",
    "rewards",
    OTHER,
)
"""In the order of a step."""


@dataclass
class Step:
    """One batch of completions and what was learned from it (SFT: one step).

    Attributes:
        cpu: seconds of this process on all its threads.
        kernel: those of them that the operating system took, most of them for memory.
        wall: seconds.
        tokens: completion tokens sampled (SFT: tokens read).
        parts: CPU seconds by part.
    """

    cpu: float
    kernel: float
    wall: float
    tokens: int
    parts: dict[str, float]


@dataclass
class Round:
    """What one process measured.

    Attributes:
        steps: the measured ones.
        imported: peak memory in MiB after the imports.
        peak: peak memory in MiB at the end.
        versions: of the libraries, by name.
    """

    imported: float
    versions: dict[str, str]
    steps: list[Step] = field(default_factory=list)
    peak: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


class Clock:
    """Collects steps; ``warmup`` of them are thrown away."""

    def __init__(self, warmup: int) -> None:
        self.warmup = warmup
        self.steps: list[Step] = []
        self.tokens = 0
        self._stack = [OTHER]
        self._restart()

    def _restart(self) -> None:
        self.parts: dict[str, float] = defaultdict(float)
        self._wall, self._cpu, self._kernel = time.perf_counter(), time.process_time(), os.times().system
        self._since = self._cpu

    def _switch(self) -> None:
        now = time.process_time()
        self.parts[self._stack[-1]] += now - self._since
        self._since = now

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time the body as this part."""
        self._switch()
        self._stack.append(name)
        try:
            yield
        finally:
            self._switch()
            self._stack.pop()

    def wrap(
        self,
        owner: Any,
        attribute: str,
        part: str | Callable[..., str],
        tokens: Callable[[Any], int] | None = None,
    ) -> None:
        """Time a function of a module, class or object from now on.

        Args:
            owner: what the function is looked up on.
            attribute: its name.
            part: the part, or what names it, given the call's arguments.
            tokens: counts the tokens of a result.
        """
        function = getattr(owner, attribute)

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.part(part if isinstance(part, str) else part(*args, **kwargs)):
                result = function(*args, **kwargs)
            if tokens is not None:
                self.tokens += tokens(result)
            return result

        setattr(owner, attribute, timed)

    def tick(self) -> None:
        """A step is over, and the next one begins."""
        if "torch" in sys.modules and sys.modules["torch"].cuda.is_initialized():
            sys.modules["torch"].cuda.synchronize()  # what was asked of the GPU belongs to this step
        self._switch()
        step = Step(
            cpu=time.process_time() - self._cpu,
            kernel=os.times().system - self._kernel,
            wall=time.perf_counter() - self._wall,
            tokens=self.tokens,
            parts=dict(self.parts),
        )
        if self.warmup:
            self.warmup -= 1
        else:
            self.steps.append(step)
        self.tokens = 0
        self._restart()


def peak_memory() -> float:
    """Peak resident memory of this process so far, in MiB; of a GPU that is in use, its own."""
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_initialized():
        return float(sys.modules["torch"].cuda.max_memory_allocated() / 2**20)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
