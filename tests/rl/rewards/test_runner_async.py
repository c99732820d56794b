"""Asynchronous rewards in real event loops."""

import asyncio
import threading
import time
from typing import Any

import pytest
import torch

from lit_narrative.errors import UserError
from lit_narrative.rl.rewards.runner import RewardRunner, Scores, ScoringSettings
from lit_narrative.views import Rollout
from tests.rl.rewards.reward_zoo import Judge, Share, rollouts, same

NAN = torch.nan


def run(rewards: list[Any], rows: list[Rollout], **settings: Any) -> Scores:
    with RewardRunner({reward.name: reward for reward in rewards}, ScoringSettings(**settings)) as runner:
        return runner.score(rows)


def test_faults_are_each_completion_s_own(caplog: pytest.LogCaptureFixture) -> None:
    texts = ("1", "raise", "nan", "none", "inf", "exit", "7", "hang")
    scores = run([Judge()], rollouts(*texts), timeout=0.3)
    same(scores.values[:, 0], [1, NAN, NAN, NAN, NAN, NAN, 7, NAN])
    assert scores.failures == {"judge": 5}
    assert "'judge': 5 of 8 completions have no score; first cause: ValueError: no such story" in caplog.text


@pytest.mark.parametrize("concurrency", [1, 7])
def test_so_many_calls_are_under_way(concurrency: int) -> None:
    judge = Judge(seconds=0.01)
    scores = run([judge], rollouts(*(str(n) for n in range(30))), concurrency=concurrency)
    same(scores.values[:, 0], [float(n) for n in range(30)])
    assert judge.most == concurrency


def test_every_call_under_way_has_a_thread_and_its_own_time() -> None:
    class Threaded(Judge):
        async def score(self, rollout: Rollout) -> float | None:
            await asyncio.to_thread(time.sleep, 0.4)
            return 1.0

    # asyncio's own threads are 32 at most: the other calls would wait for one until their time is up.
    scores = run([Threaded()], rollouts(*(str(n) for n in range(80))), concurrency=40, timeout=0.7)
    assert scores.failures == {"judge": 0}


def test_many_slow_calls_take_the_time_of_few() -> None:
    judge, began = Judge(seconds=0.2), time.monotonic()
    scores = run([judge], rollouts(*(str(n) for n in range(200))), concurrency=100)
    assert not scores.values.isnan().any()
    assert time.monotonic() - began < 3


def test_answers_are_remembered() -> None:
    judge = Judge()
    with RewardRunner({"judge": judge}) as runner:
        for _ in range(3):
            same(runner.score(rollouts("1", "2", "1", "none")).values[:, 0], [1, 2, 1, NAN])
    assert judge.asked == {"1": 1, "2": 1, "none": 1}


def test_the_event_loop_stays_from_batch_to_batch() -> None:
    judge = Judge()
    with RewardRunner({"judge": judge}) as runner:
        runner.score(rollouts("1"))
        runner.score(rollouts("2"))
    assert len(judge.loops) == 1


def test_a_running_event_loop_is_no_hindrance() -> None:
    async def notebook() -> Scores:
        return run([Judge(), Share()], rollouts("1", "2"))

    same(asyncio.run(notebook()).values, [[1, 1], [2, 1]])


def test_others_work_meanwhile() -> None:
    order: list[str] = []

    class Late(Judge):
        async def score(self, rollout: Rollout) -> float | None:
            order.append("asked")
            while "worked" not in order:
                await asyncio.sleep(0.01)
            return 1.0

    def work(rows: list[Rollout]) -> list[float]:
        while "asked" not in order:
            time.sleep(0.01)
        order.append("worked")
        return [2.0] * len(rows)

    rewards: dict[str, Any] = {"late": Late(), "work": work}
    with RewardRunner(rewards, ScoringSettings(timeout=20)) as runner:
        same(runner.score(rollouts("2")).values[0], [1, 2])


def test_an_error_for_the_user_is_not_swallowed() -> None:
    class Keyless(Judge):
        async def score(self, rollout: Rollout) -> float | None:
            raise UserError("the judge needs a key in JUDGE_KEY")

    with pytest.raises(UserError, match="JUDGE_KEY"):
        run([Keyless()], rollouts("1", "2"))


def test_no_thread_is_left_after_close_and_a_new_one_can_be_had() -> None:
    before = threading.active_count()
    runner = RewardRunner({"judge": Judge()})
    for text in ("1", "2"):
        same(runner.score(rollouts(text)).values[0], [float(text)])
        assert threading.active_count() > before
        runner.close()
        assert threading.active_count() == before
