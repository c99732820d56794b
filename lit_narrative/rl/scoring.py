"""Rewards at work: several at a time, each within a time limit, and no fault of theirs ends the run unnoticed."""

import inspect
import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, TypeGuard

import torch

from lit_narrative.errors import UserError, did_you_mean
from lit_narrative.rl.answers import Answer, Lost, ask
from lit_narrative.rl.async_rewards import AsyncRewards, Question
from lit_narrative.rl.reward_cache import RewardCache
from lit_narrative.rl.reward_jobs import Share, pack, pickle_rewards, sharing
from lit_narrative.rl.reward_pool import WorkerPool
from lit_narrative.rl.rewards import AnyReward, AsyncReward, Reward
from lit_narrative.rl.rollout import Rollout

logger = logging.getLogger(__name__)

BATCHES = 3
"""After so many batches in a row in which a reward fails altogether, it counts as broken."""


@dataclass(frozen=True)
class ScoringSettings:
    """How rewards are run.

    Args:
        workers: processes that rewards run in; 0 runs them in this one, where nothing can stop one that hangs.
        timeout: seconds that one call of a reward may take, in a worker or of an asynchronous one.
        concurrency: calls of asynchronous rewards under way at the same time.
        independent: names of rewards whose answer depends on the completion and its prompt alone, neither on the rest
            of the batch nor on anything that changes during the run. They are shared out among the workers,
            completions at fault are set apart, and their answers are remembered. Asynchronous rewards always are.
        cache_size: answers remembered of each of those; 0 asks anew each time.
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
            if getattr(self, name) < least:
                raise UserError(f"model.scoring.{name}={getattr(self, name)} must be {least} or more")
        if not (math.isfinite(self.timeout) and self.timeout > 0):
            raise UserError(f"model.scoring.timeout={self.timeout} must be a number of seconds above 0")


class Scores(NamedTuple):
    """What the rewards said of a batch of R completions.

    Attributes:
        values: (R, k) float32, a column a reward in the order they were given; NaN where there is no score.
        failures: by reward, how many completions lost their score: it was NaN or infinite, or the reward raised, took
            too long or died. A plain None is no failure.
    """

    values: torch.Tensor
    failures: dict[str, int]


class RewardRunner:
    """Scores batches of rollouts by several rewards at the same time; close it after use.

    Args:
        rewards: by name; an asynchronous one is told by its ``async def score``.
        settings: where they run and how long they may take.

    Raises:
        UserError: what is given is no reward, ``independent`` names none, or one cannot be sent to a worker.
    """

    def __init__(self, rewards: Mapping[str, AnyReward], settings: ScoringSettings = ScoringSettings()) -> None:
        self.names, self.settings = list(rewards), settings
        for name in settings.independent:
            if name not in rewards:
                known = ", ".join(rewards)
                raise UserError(f"model.scoring.independent: no reward '{name}'{did_you_mean(name, rewards)}; {known}")
        self._awaited: dict[str, AsyncReward] = {}
        self._alone: dict[str, Reward] = {}
        self._whole: dict[str, Reward] = {}
        for name, reward in rewards.items():
            if is_async(reward):
                self._awaited[name] = reward
            else:
                kind = self._alone if name in settings.independent else self._whole
                kind[name] = check_reward(name, reward)
        self._closed = False
        self._cache = RewardCache(settings.cache_size)
        self._failed: Counter[str] = Counter()
        self._async = AsyncRewards(settings.concurrency, settings.timeout)
        self._pool: WorkerPool | None = None
        here = {**self._whole, **self._alone}
        if settings.workers and here:
            pickled = {name: pickle_rewards({name: reward}) for name, reward in here.items()}
            self._pool = WorkerPool(settings.workers, settings.timeout, pickled)

    def score(self, rollouts: Sequence[Rollout]) -> Scores:
        """Score the rollouts of one batch.

        Raises:
            UserError: a reward returned something else than one score a completion, or failed on everything in three
                batches in a row; the message names it and the cause.
        """
        if self._closed:
            raise RuntimeError("these rewards are closed")
        try:
            answers = self._answers(list(rollouts)) if rollouts else {name: [] for name in self.names}
        except BaseException:
            self._async.close()
            raise
        failures = {name: self._note(name, answers[name]) for name in self.names}
        columns = [[answer if isinstance(answer, float) else math.nan for answer in answers[n]] for n in self.names]
        return Scores(torch.tensor(columns, dtype=torch.float32).view(len(columns), -1).T.contiguous(), failures)

    def forget(self, name: str) -> None:
        """Drop the remembered answers of a reward that has changed."""
        self._cache.forget(name)

    def close(self) -> None:
        """End the workers and the event loop; closing twice does no harm."""
        self._closed = True
        self._async.close()
        if self._pool is not None:
            self._pool.close()

    def __enter__(self) -> "RewardRunner":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- one batch --------------------------------------------------------------------------------------------------

    def _answers(self, rollouts: list[Rollout]) -> dict[str, list[Answer]]:
        remembered = [*self._awaited, *self._alone]
        keys = self._cache.keys(rollouts) if remembered else []
        first = {key: row for row, key in reversed(list(enumerate(keys)))}
        found = {name: self._cache.known(name, first) for name in remembered}
        todo = {name: tuple(sorted(first[key] for key in first.keys() - found[name].keys())) for name in remembered}
        new = self._ask(rollouts, todo)
        for name in remembered:
            fresh = {keys[row]: answer for row, answer in new[name].items()}
            self._cache.remember(name, fresh)
            found[name] |= fresh
            new[name] = {row: found[name][key] for row, key in enumerate(keys)}
        return {name: [new[name][row] for row in range(len(rollouts))] for name in self.names}

    def _ask(self, rollouts: list[Rollout], todo: Mapping[str, tuple[int, ...]]) -> dict[str, dict[int, Answer]]:
        """Answers by reward and row: asynchronous rewards are asked while the others work."""
        asked = [(name, row) for name in self._awaited for row in todo[name]]
        pending = self._async.start([Question(name, self._awaited[name], rollouts[row]) for name, row in asked])
        shares = [Share(group, range(len(rollouts)), False) for group in sharing(self._whole)]
        for rows in {todo[name] for name in self._alone}:
            shares.append(Share({n: r for n, r in self._alone.items() if todo[n] == rows}, rows, True))
        answers: dict[str, dict[int, Answer]] = {name: {} for name in self.names}
        for name, given in self._work([share for share in shares if share.rows], rollouts):
            answers[name] |= given
        for (name, row), answer in zip(asked, self._async.finish(pending), strict=True):
            answers[name][row] = answer
        return answers

    def _work(self, shares: list[Share], rollouts: list[Rollout]) -> Iterator[tuple[str, dict[int, Answer]]]:
        """Have synchronous rewards do their shares, here or in the workers: names with answers by row."""
        if self._pool is None:
            for share in shares:
                own = [rollouts[row] for row in share.rows]
                for name, reward in share.rewards.items():
                    yield name, dict(zip(share.rows, ask(name, reward, own, share.alone), strict=True))
            return
        packed = cache(lambda rows: pack([rollouts[row] for row in rows]))
        parts = [part for share in shares for part in share.split(self.settings.workers)]
        done = self._pool.run([part.job(packed(part.rows)) for part in parts])
        for part, answered in zip(parts, done, strict=True):
            for call, answers in answered:
                yield call.name, {part.rows[row]: answer for row, answer in zip(call.rows, answers, strict=True)}

    def _note(self, name: str, answers: Sequence[Answer]) -> int:
        """Log and count what a reward lost.

        Raises:
            UserError: that was all, for the third batch in a row.
        """
        lost = [answer for answer in answers if isinstance(answer, Lost)]
        if lost:
            logger.warning(
                "reward '%s': %d of %d completions have no score; first cause: %s",
                name,
                len(lost),
                len(answers),
                lost[0].cause,
            )
        nothing = bool(lost) and not any(isinstance(answer, float) for answer in answers)
        if answers:
            self._failed[name] = self._failed[name] + 1 if nothing else 0
        if self._failed[name] >= BATCHES:
            raise UserError(
                f"reward '{name}' failed on every completion of {self._failed[name]} batches in a row, last because "
                f"{lost[-1].cause}; correct it, or take it out of model.rewards"
            )
        return len(lost)


def is_async(reward: AnyReward) -> TypeGuard[AsyncReward]:
    """Whether a reward is to be awaited."""
    return isinstance(reward, AsyncReward) and inspect.iscoroutinefunction(reward.score)


def check_reward(name: str, reward: AnyReward) -> Reward:
    """A synchronous reward.

    Raises:
        UserError: it cannot be called, or gives something to await.
    """
    call = getattr(reward, "__call__", None)  # noqa: B004 (its own method is what matters)
    if not callable(reward) or inspect.iscoroutinefunction(reward) or inspect.iscoroutinefunction(call):
        raise UserError(
            f"reward '{name}' is a {type(reward).__name__} that cannot be used; a reward has "
            "`def __call__(self, rollouts)` or `async def score(self, rollout)`"
        )
    return reward
