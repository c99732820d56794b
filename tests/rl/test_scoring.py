"""What scores mean, here and in workers: the same values, the same losses, the same complaints."""

import logging
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from lit_narrative.errors import UserError
from lit_narrative.rl.rollout import Rollout
from lit_narrative.rl.scoring import RewardRunner, Scores, ScoringSettings
from tests.rl.reward_zoo import Judge, Memory, Obedient, Part, Returns, Seen, Share, Sized, rollouts

WORKERS = pytest.mark.parametrize("workers", [0, 2])
NAN = torch.nan


def run(rewards: Sequence[Any], rows: list[Rollout], **settings: Any) -> Scores:
    with RewardRunner({reward.name: reward for reward in rewards}, ScoringSettings(**settings)) as runner:
        return runner.score(rows)


def same(values: torch.Tensor, expected: list[Any]) -> None:
    torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float32), rtol=0, atol=1e-6, equal_nan=True)


def test_values_have_a_column_a_reward_in_their_order() -> None:
    scores = run([Share(), Obedient(), Judge()], rollouts("2", "2", "none", "1"))
    assert scores.values.dtype == torch.float32
    same(scores.values, [[0.5, 2, 2], [0.5, 2, 2], [1, NAN, NAN], [1, 1, 1]])
    assert scores.failures == {"share": 0, "obedient": 0, "judge": 0}


def test_no_rollouts_give_no_rows() -> None:
    scores = run([Share(), Judge()], [])
    assert scores.values.shape == (0, 2)
    assert scores.failures == {"share": 0, "judge": 0}


def test_values_are_the_same_with_any_number_of_workers() -> None:
    texts = [str(n % 7) for n in range(40)] + ["none", "nan"]
    rows = rollouts(*texts, vector=torch.arange(3.0))
    rewards = [Share(), Seen(), Obedient(), Sized(torch.tensor(3.0)), Judge()]
    independent = ("obedient", "sized")
    first, *others = (run(rewards, rows, workers=workers, independent=independent) for workers in (0, 1, 2))
    assert first.values.isnan().sum() == 4
    for other in others:
        assert torch.equal(first.values.nan_to_num(-1), other.values.nan_to_num(-1))
        assert first.failures == other.failures


@WORKERS
def test_what_is_no_finite_number_is_no_score(workers: int, caplog: pytest.LogCaptureFixture) -> None:
    rows = rollouts("1", "nan", "inf", "-inf", "none", "1e39")
    with caplog.at_level(logging.WARNING):
        scores = run([Obedient()], rows, workers=workers)
    same(scores.values[:, 0], [1, NAN, NAN, NAN, NAN, NAN])
    assert scores.failures == {"obedient": 4}, "a plain None is no failure"
    (record,) = caplog.records
    assert record.getMessage() == "reward 'obedient': 4 of 6 completions have no score; first cause: it returned NaN"


def test_what_is_no_number_is_no_score() -> None:
    scores = run([Returns([1, "two", [3], True, torch.tensor(5.0), 10**400])], rollouts(*"abcdef"))
    same(scores.values[:, 0], [1, NAN, NAN, 1, 5, NAN])
    assert scores.failures == {"returns": 3}


@WORKERS
@pytest.mark.parametrize("value", [[1.0], [1.0, 2.0, 3.0], [], None, 1.0], ids=str)
def test_another_number_of_scores_is_an_error(value: object, workers: int) -> None:
    with pytest.raises(UserError, match=r"'returns' returned (\d scores for 2 completions|NoneType|float); it must"):
        run([Share(), Returns(value)], rollouts("a", "b"), workers=workers)


@WORKERS
@pytest.mark.parametrize("fault", ["raise", "exit"])
def test_a_raise_costs_a_reward_of_the_batch_its_batch(
    fault: str, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    scores = run([Obedient(), Share()], rollouts("1", fault, "3"), workers=workers)
    same(scores.values, [[NAN, 1], [NAN, 1], [NAN, 1]])
    assert scores.failures == {"obedient": 3, "share": 0}
    assert "3 of 3 completions have no score; first cause: " in caplog.text
    assert {"raise": "ValueError: no such story (", "exit": "SystemExit: 1 ("}[fault] in caplog.text
    assert "reward_zoo.py:" in caplog.text


@WORKERS
def test_a_raise_costs_an_independent_reward_that_completion(workers: int) -> None:
    scores = run([Obedient()], rollouts("1", "raise", "3", "exit"), workers=workers, independent=("obedient",))
    same(scores.values[:, 0], [1, NAN, 3, NAN])
    assert scores.failures == {"obedient": 2}


@WORKERS
def test_a_reward_that_fails_on_three_batches_in_a_row_is_broken(workers: int) -> None:
    bad, good = rollouts("raise", "1"), rollouts("1", "2")
    with RewardRunner({"obedient": Obedient()}, ScoringSettings(workers=workers)) as runner:
        for rows in (bad, bad, good, bad, bad):
            runner.score(rows)
        with pytest.raises(
            UserError, match=r"'obedient' failed on every completion of 3 batches in a row, last.*no such"
        ):
            runner.score(bad)


def test_a_reward_that_has_nothing_to_say_is_not_broken() -> None:
    with RewardRunner({"obedient": Obedient()}) as runner:
        counts = [runner.score(rollouts("none", "none")).failures["obedient"] for _ in range(4)]
    assert counts == [0, 0, 0, 0]


@WORKERS
def test_a_reward_is_used_as_it_is_at_each_call(workers: int) -> None:
    reward = Sized(torch.tensor(1.0))
    with RewardRunner({"sized": reward}, ScoringSettings(workers=workers)) as runner:
        same(runner.score(rollouts("abcd")).values[0], [4])
        reward.unit = torch.tensor(2.0)
        same(runner.score(rollouts("abcd")).values[0], [2])


@WORKERS
def test_an_independent_reward_is_asked_once_about_the_same(workers: int, tmp_path: Path) -> None:
    notes = tmp_path / "asked"
    settings = ScoringSettings(workers=workers, independent=("obedient",))
    with RewardRunner({"obedient": Obedient(notes=notes)}, settings) as runner:
        same(runner.score(rollouts("1", "2", "1", "nan")).values[:, 0], [1, 2, 1, NAN])
        assert sorted(notes.read_text().split()) == ["1", "2", "nan"]
        same(runner.score(rollouts("2", "none", "nan")).values[:, 0], [2, NAN, NAN])
        same(runner.score(rollouts("none", "1")).values[:, 0], [NAN, 1])
        assert sorted(notes.read_text().split()) == ["1", "2", "nan", "nan", "none"], "what was lost is asked again"
        runner.score(rollouts("1", column=5))
        assert notes.read_text().split().count("1") == 2, "another prompt"
        runner.forget("obedient")
        runner.score(rollouts("1"))
        assert notes.read_text().split().count("1") == 3


@pytest.mark.parametrize(("size", "asked"), [(0, 4), (1, 4), (2, 2)])
def test_the_memory_is_bounded(size: int, asked: int, tmp_path: Path) -> None:
    notes = tmp_path / "asked"
    settings = ScoringSettings(independent=("obedient",), cache_size=size)
    with RewardRunner({"obedient": Obedient(notes=notes)}, settings) as runner:
        for text in ("1", "2", "1", "2"):
            runner.score(rollouts(text))
    assert len(notes.read_text().split()) == asked


@WORKERS
@pytest.mark.parametrize("independent", [(), ("first", "second")])
def test_rewards_that_share_a_memory_use_it_together(
    independent: tuple[str, ...], workers: int, tmp_path: Path
) -> None:
    memory = Memory(tmp_path / "asked")
    rewards = [Part("first", memory), Share(), Part("second", memory)]
    scores = run(rewards, rollouts(*"abcd"), workers=workers, independent=independent)
    assert torch.equal(scores.values[:, 0], scores.values[:, 2])
    assert sorted(memory.notes.read_text().split()) == list("abcd")


class Plain:
    """Its `__call__` is a coroutine, which no reward's is."""

    name = "plain"

    async def __call__(self, rollouts: Sequence[Rollout]) -> list[float]:
        return [1.0] * len(rollouts)


@pytest.mark.parametrize("reward", [Plain(), 3, "brevity"], ids=str)
def test_what_is_no_reward_is_refused(reward: Any) -> None:
    with pytest.raises(UserError, match=f"'odd' is a {type(reward).__name__} that cannot be used; a reward has"):
        RewardRunner({"odd": reward})


def test_functions_are_rewards_too() -> None:
    with RewardRunner({"length": lambda rows: [len(row.text) for row in rows]}) as runner:  # type: ignore[dict-item]
        same(runner.score(rollouts("ab", "c")).values[:, 0], [2, 1])


@pytest.mark.parametrize("state", ["lock", "lambda", "local"])
def test_a_reward_that_no_worker_can_have_is_refused_by_name(state: str) -> None:
    class Local(Share):
        pass

    value: Any = {"lock": Returns(threading.Lock()), "lambda": Returns(lambda: 0), "local": Local()}[state]
    with pytest.raises(UserError, match=r"reward 'other' cannot be sent to a worker process .*; define it .*workers=0"):
        RewardRunner({"share": Share(), "other": value}, ScoringSettings(workers=1))


def test_a_reward_that_only_this_process_knows_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = ModuleType("a_notebook")
    exec("class Mine:\n    def __call__(self, rollouts):\n        return [1.0] * len(rollouts)", notebook.__dict__)
    monkeypatch.setitem(sys.modules, "a_notebook", notebook)
    with pytest.raises(UserError, match=r"reward 'mine' cannot be sent to a worker process .*No module named"):
        RewardRunner({"share": Share(), "mine": notebook.Mine()}, ScoringSettings(workers=1))


def test_a_reward_that_can_no_longer_be_sent_is_named(tmp_path: Path) -> None:
    reward = Returns([1.0])
    with RewardRunner({"share": Share(), "changed": reward}, ScoringSettings(workers=1)) as runner:
        runner.score(rollouts("a"))
        reward.value = lambda: 0
        with pytest.raises(UserError, match="'changed' cannot be sent"):
            runner.score(rollouts("a"))
        reward.value = [3.0]
        same(runner.score(rollouts("a")).values[0], [1, 3])


def test_columns_that_cannot_be_sent_are_named() -> None:
    with pytest.raises(UserError, match="columns of the prompts cannot be sent to worker processes"):
        run([Share()], rollouts("a", lock=threading.Lock()), workers=1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("workers", -1),
        ("timeout", 0.0),
        ("timeout", torch.inf),
        ("timeout", NAN),
        ("concurrency", 0),
        ("cache_size", -1),
    ],
)
def test_settings_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(UserError, match=f"^model.scoring.{name}="):
        ScoringSettings(**{name: value})  # type: ignore[arg-type]


def test_an_unknown_independent_reward_is_refused() -> None:
    with pytest.raises(UserError, match=r"model.scoring.independent: no reward 'shard'; did you mean 'share'\?"):
        RewardRunner({"share": Share()}, ScoringSettings(independent=("shard",)))
