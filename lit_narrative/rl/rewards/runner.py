"""Runner of rewards: several at a time, each within a time limit; what fails is counted and logged."""

import hashlib
import inspect
import math
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import Any, NamedTuple

import torch
from cachetools import LRUCache

from lit_narrative.errors import UserError, check_least, did_you_mean
from lit_narrative.rl.rewards.base import Answer, AnyReward, Lost, UsesCritic, UsesEncoder, ask, log_lost
from lit_narrative.rl.rewards.loading import metric_names
from lit_narrative.rl.rewards.workers import AsyncRewards, RewardWorkers, pickled
from lit_narrative.views import Rollout

MAX_FAILED = 3
"""After so many rollout batches in a row in which a reward fails altogether, it counts as broken."""
Call = tuple[str, tuple[int, ...]]
"""A reward's name, and the rows of the batch that it is called with."""


@dataclass(frozen=True)
class ScoringSettings:
    """How rewards are run.

    Args:
        workers: processes that rewards run in; 0 runs them in this one, where nothing can stop one that hangs.
        timeout: seconds that one call of a reward may take, in a worker or of an asynchronous one; there is no limit
            for the others.
        concurrency: calls of asynchronous rewards at the same time; of no effect without one.
        independent: names of rewards whose answer depends on the completion and its prompt alone, neither on the rest
            of the batch nor on anything that changes during the run. They are divided among the workers,
            completions at fault are set apart, and their answers are remembered. Asynchronous rewards always are.
        cache_size: answers that are remembered, of all those together; 0 asks again each time.
    """

    workers: int = 0
    timeout: float = 60.0
    concurrency: int = 16
    independent: tuple[str, ...] = ()
    cache_size: int = 65_536

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            UserError: a number is out of range.
        """
        for name, least in (("workers", 0), ("concurrency", 1), ("cache_size", 0)):
            check_least(f"model.scoring.{name}", getattr(self, name), least)
        if not (math.isfinite(self.timeout) and self.timeout > 0):
            raise UserError(f"model.scoring.timeout is {self.timeout}; it must be a number of seconds above 0")


class Scores(NamedTuple):
    """The scores of a batch of R completions.

    Attributes:
        values: (R, k) float32, a column a reward in the order they were given; NaN where there is no score.
        failures: by reward, how many completions lost their score: it was NaN or infinite, or the reward raised, took
            too long or died. A plain None is not a failure.
    """

    values: torch.Tensor
    failures: dict[str, int]


class RewardRunner:
    """Scores batches of rollouts by several rewards at the same time; close it after use.

    Args:
        rewards: by name; one with ``async def score`` is asynchronous.
        settings: where they run and how long they may take.

    Attributes:
        labels: what metrics and messages call each reward, by its name.
        seconds: that scoring took so far, in which nothing else was done.

    Raises:
        UserError: one of them is not a reward, cannot be sent to a worker, or cannot be independent.
    """

    def __init__(self, rewards: Mapping[str, AnyReward], settings: ScoringSettings = ScoringSettings()) -> None:
        self.names, self.settings = list(rewards), settings
        self.labels = metric_names(rewards)
        self.seconds = 0.0
        self._check(rewards)
        awaited = [name for name in rewards if _is_async(rewards[name])]
        self._awaited: dict[str, Any] = {name: rewards[name] for name in awaited}
        self._called: dict[str, Any] = {name: rewards[name] for name in rewards if name not in awaited}
        self._memory: LRUCache[Hashable, float | None] = LRUCache(settings.cache_size)
        self._failed: Counter[str] = Counter()
        self._async = AsyncRewards(settings.concurrency, settings.timeout)
        self._workers: RewardWorkers | None = None
        if settings.workers and self._called:
            self._workers = RewardWorkers(settings.workers, settings.timeout, self._called)

    def score(self, rollouts: Sequence[Rollout], *, again: bool = False) -> Scores:
        """Score the rollouts of one batch.

        Args:
            rollouts: of one rollout batch, or some of it.
            again: this is more of the same rollout batch as in the call before. Time has to pass before a reward that
                fails counts as broken, so failures are counted by rollout batches: that everything failed once more
                adds nothing, but any score shows that the reward works.

        Raises:
            UserError: a reward returned another number of scores, or failed on everything in three rollout
                batches in a row.
        """
        start = time.perf_counter()
        try:
            answers = self._answers(rollouts)
        # Worker processes end whatever interrupts the call, Ctrl-C included.
        except BaseException:
            self.close()
            raise
        self.seconds += time.perf_counter() - start
        failures = {name: self._note(name, column, again) for name, column in answers.items()}
        columns = [[row if isinstance(row, float) else math.nan for row in column] for column in answers.values()]
        # (k, R) to (R, k).
        return Scores(
            torch.tensor(columns, dtype=torch.float32).view(len(columns), len(rollouts)).T.contiguous(), failures
        )

    def close(self) -> None:
        """End the workers and the event loop; `score` would start new ones."""
        self._async.close()
        if self._workers is not None:
            self._workers.close()

    def __enter__(self) -> "RewardRunner":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check(self, rewards: Mapping[str, AnyReward]) -> None:
        for name, reward in rewards.items():
            if not callable(reward) and not _is_async(reward):
                needed = "`def __call__(self, rollouts)` or `async def score(self, rollout)`"
                raise UserError(f"reward '{name}' is a {type(reward).__name__} that cannot be used; it needs {needed}")
        for name in self.settings.independent:
            if name not in rewards:
                known = did_you_mean(name, rewards) or f"; there are {', '.join(rewards)}"
                raise UserError(f"model.scoring.independent: no reward '{name}'{known}")
            if isinstance(rewards[name], UsesEncoder):
                raise UserError(f"model.scoring.independent: '{name}' changes with the SAE of each cycle; take it out")
            if isinstance(rewards[name], UsesCritic):
                raise UserError(f"model.scoring.independent: '{name}' changes with the critic it reads by; take it out")

    def _answers(self, rollouts: Sequence[Rollout]) -> dict[str, list[Answer]]:
        """By reward, an answer for each rollout; remembered answers of independent rewards are not asked again."""
        keys = {name: [self._key(name, row, rollout) for row, rollout in enumerate(rollouts)] for name in self.names}
        known: dict[Hashable, Answer] = {}
        calls: list[Call] = []
        for name in (*self._called, *self._awaited):  # what runs here is called first, while the others work
            column = keys[name]
            known |= {key: self._memory[key] for key in column if key in self._memory}
            # Equal keys are asked once: a group often holds the same completion several times.
            rows = tuple({key: row for row, key in enumerate(column) if key not in known}.values())
            # Other rewards may compare completions with each other, so they get the whole batch.
            parts = min(max(self.settings.workers, 1), len(rows)) if name in self.settings.independent else 1
            calls += [(name, rows[part::parts]) for part in range(parts) if rows]
        for name, row, answer in self._call(calls, rollouts):
            known[keys[name][row]] = answer
            # A lost answer is asked for again: a timeout says nothing of the text.
            if isinstance(key := keys[name][row], bytes) and not isinstance(answer, Lost):
                self._memory[key] = answer
        return {name: [known[key] for key in column] for name, column in keys.items()}

    def _key(self, name: str, row: int, rollout: Rollout) -> Hashable:
        """The row number; for an independent reward, a digest of all that it may look at."""
        alone = name in self._awaited or name in self.settings.independent
        if not (alone and self.settings.cache_size):
            return name, row
        # As lists: equal tensors may differ as pickles, by the storage that they share.
        ids = (rollout.prompt_ids.tolist(), rollout.completion_ids.tolist())
        visible = (name, rollout.prompt_columns, rollout.text, rollout.finished, ids, rollout.columns)
        return hashlib.sha256(pickled(visible, "what a prompt carries in its columns")).digest()

    def _call(self, calls: Sequence[Call], rollouts: Sequence[Rollout]) -> Iterator[tuple[str, int, Answer]]:
        """Call rewards side by side: names, rows and answers."""
        # All are started before the first is waited for.
        started = [self._start(name, [rollouts[row] for row in rows]) for name, rows in calls]
        for (name, rows), wait in zip(calls, started, strict=True):
            answers = wait()
            if name in self.settings.independent and len(rows) > 1 and all(type(answer) is Lost for answer in answers):
                yield from self._call([(name, (row,)) for row in rows], rollouts)  # one text may be at fault for all
            else:
                yield from zip(repeat(name), rows, answers)

    def _start(self, name: str, rollouts: Sequence[Rollout]) -> Callable[[], list[Answer]]:
        if name in self._awaited:
            return self._async.start(self._awaited[name], rollouts)
        if self._workers is not None:
            return self._workers.start(name, self._called[name], rollouts)
        return partial(ask, name, self._called[name], rollouts)

    def _note(self, name: str, answers: Sequence[Answer], again: bool) -> int:
        """Log and count what a reward lost."""
        lost = log_lost(self.labels[name], answers)
        if answers:
            # None is an answer, but it does not show that the reward works.
            nothing = lost and not any(isinstance(answer, float) for answer in answers)
            self._failed[name] = self._failed[name] + (not again) if nothing else 0
        if self._failed[name] >= MAX_FAILED:
            raise UserError(
                f"reward '{self.labels[name]}' failed on every completion of {self._failed[name]} rollout batches in a "
                f"row, last because {lost[-1]}; correct it, or take it out of model.rewards"
            )
        return len(lost)


def _is_async(reward: AnyReward) -> bool:
    return inspect.iscoroutinefunction(getattr(reward, "score", None))
