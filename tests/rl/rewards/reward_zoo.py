"""Rewards that do what they should not, and rollouts that tell them to; importable by worker processes."""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from lit_narrative.tasks.storyworld.verifiers.base import Context
from lit_narrative.views import Rollout


def rollouts(*texts: str, **columns: object) -> list[Rollout]:
    """Rollouts with these texts, one id a letter."""
    ids = [torch.tensor([ord(letter) for letter in text], dtype=torch.int64) for text in texts]
    return [
        Rollout(torch.tensor([1, 2]), row, -torch.ones(len(row)), True, text, "Write.", columns, number)
        for number, (text, row) in enumerate(zip(texts, ids, strict=True))
    ]


def same(values: torch.Tensor, expected: object) -> None:
    """Check scores; NaN is equal to NaN."""
    torch.testing.assert_close(
        values, torch.as_tensor(expected, dtype=torch.float32), rtol=0, atol=1e-6, equal_nan=True
    )


def value_of(text: str) -> float | None:
    """What the text says: a number, or what is to happen."""
    if text == "none":
        return None
    if text == "raise":
        raise ValueError("no such story")
    if text == "exit":
        raise SystemExit(1)
    if text == "die":
        os._exit(7)
    if text == "hang":
        time.sleep(60)
    return float(text)


@dataclass
class Obedient:
    """Does what each text says; notes every text that it is asked about in a file."""

    name: str = "obedient"
    notes: Path | None = None

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float | None]:
        for rollout in rollouts:
            note(self.notes, rollout.text)
        return [value_of(rollout.text) for rollout in rollouts]


@dataclass
class Judge:
    """Does what each text says after a while; keeps count of the calls under way."""

    name: str = "judge"
    seconds: float = 0.0
    asked: Counter[str] = field(default_factory=Counter)
    under_way: int = 0
    most: int = 0
    loops: set[int] = field(default_factory=set)

    async def score(self, rollout: Rollout) -> float | None:
        self.asked[rollout.text] += 1
        self.loops.add(id(asyncio.get_running_loop()))
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await asyncio.sleep(60 if rollout.text == "hang" else self.seconds)
            return None if rollout.text == "hang" else value_of(rollout.text)
        finally:
            self.under_way -= 1


class Share:
    """1 / how many of the batch have the same text."""

    name = "share"

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float]:
        counts = Counter(rollout.text for rollout in rollouts)
        return [1 / counts[rollout.text] for rollout in rollouts]


@dataclass
class Returns:
    """Returns what it is made with, whatever it is asked."""

    value: object
    name: str = "returns"

    def __call__(self, rollouts: Sequence[Rollout]) -> object:
        return self.value


@dataclass
class Sized:
    """Length of the text in multiples of a unit that can be swapped."""

    unit: torch.Tensor
    name: str = "sized"

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float]:
        return [len(rollout.text) / float(self.unit) for rollout in rollouts]


class Seen:
    """A number made of everything that a rollout carries."""

    name = "seen"

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float]:
        return [
            float(r.prompt_ids.sum() + r.completion_ids.sum() * 3 + r.logprobs.sum() * 7)
            + len(r.prompt) * 11
            + r.group * 13
            + float(r.columns["vector"].sum())
            + r.finished
            for r in rollouts
        ]


class Threads:
    """How many threads PyTorch uses here."""

    name = "threads"

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float]:
        return [float(torch.get_num_threads())] * len(rollouts)


class ProcessId:
    """The process that it runs in."""

    name = "pid"

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float]:
        return [float(os.getpid())] * len(rollouts)


def brevity(context: Context) -> float:
    """A custom component."""
    return 1.0 if len(context.text) < 1000 else 0.25


def encode(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Half of the latents are active, and what is rebuilt is too small."""
    return np.maximum(np.concatenate([x, -x], axis=1), 0), 0.5 * x


def note(file: Path | None, text: str) -> None:
    """Append a line; whole even when several processes write."""
    if file is not None:
        with file.open("a") as out:
            out.write(f"{text}\n")
