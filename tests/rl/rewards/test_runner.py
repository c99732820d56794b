"""What scores mean: values, losses, complaints, and what is remembered."""

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_narrative.errors import UserError
from lit_narrative.rl.rewards.runner import RewardRunner, Scores, ScoringSettings
from lit_narrative.tasks.storyworld.feature_quality import FeatureQuality
from lit_narrative.views import Rollout
from tests.rl.rewards.reward_zoo import Judge, Obedient, Returns, Share, rollouts, same

NAN = torch.nan


def run(rewards: Sequence[Any], rows: list[Rollout], **settings: Any) -> Scores:
    with RewardRunner({reward.name: reward for reward in rewards}, ScoringSettings(**settings)) as runner:
        return runner.score(rows)


def test_values_have_a_column_a_reward_in_their_order() -> None:
    scores = run([Share(), Judge(), Obedient()], rollouts("2", "2", "none", "1"))
    assert scores.values.dtype == torch.float32
    same(scores.values, [[0.5, 2, 2], [0.5, 2, 2], [1, NAN, NAN], [1, 1, 1]])
    assert scores.failures == {"share": 0, "judge": 0, "obedient": 0}


def test_no_rollouts_give_no_rows() -> None:
    scores = run([Share(), Judge()], [])
    assert scores.values.shape == (0, 2)
    assert scores.failures == {"share": 0, "judge": 0}


def test_what_is_no_finite_number_is_no_score(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        scores = run([Obedient()], rollouts("1", "nan", "inf", "-inf", "none", "1e39"))
    same(scores.values[:, 0], [1, NAN, NAN, NAN, NAN, NAN])
    assert scores.failures == {"obedient": 4}, "a plain None is no failure"
    (record,) = caplog.records
    assert record.getMessage() == "reward 'obedient': 4 of 6 completions have no score; first cause: it returned nan"


def test_what_is_no_number_is_no_score() -> None:
    scores = run([Returns([1, "two", [3], True, torch.tensor(5.0), 10**400])], rollouts(*"abcdef"))
    same(scores.values[:, 0], [1, NAN, NAN, 1, 5, NAN])
    assert scores.failures == {"returns": 3}


@pytest.mark.parametrize("value", [[], [1.0], [1.0, 2.0, 3.0]], ids=str)
def test_another_number_of_scores_is_an_error(value: object) -> None:
    with pytest.raises(UserError, match=r"'returns' returned \d scores for 2 completions; it must"):
        run([Share(), Returns(value)], rollouts("a", "b"))


@pytest.mark.parametrize(("fault", "cause"), [("raise", "ValueError: no such story ("), ("exit", "SystemExit: 1 (")])
def test_a_raise_costs_a_reward_its_batch(fault: str, cause: str, caplog: pytest.LogCaptureFixture) -> None:
    scores = run([Obedient(), Share()], rollouts("1", fault, "3"))
    same(scores.values, [[NAN, 1], [NAN, 1], [NAN, 1]])
    assert scores.failures == {"obedient": 3, "share": 0}
    assert f"3 of 3 completions have no score; first cause: {cause}" in caplog.text
    assert "reward_zoo.py:" in caplog.text


def test_what_is_no_list_counts_as_a_raise() -> None:
    assert run([Returns(None)], rollouts("a", "b")).failures == {"returns": 2}


def test_a_raise_costs_an_independent_reward_that_completion() -> None:
    scores = run([Obedient()], rollouts("1", "raise", "3", "exit"), independent=("obedient",))
    same(scores.values[:, 0], [1, NAN, 3, NAN])
    assert scores.failures == {"obedient": 2}


def test_a_reward_that_fails_on_three_windows_in_a_row_is_broken() -> None:
    bad, good = rollouts("raise", "1"), rollouts("1", "2")
    with RewardRunner({"obedient": Obedient()}) as runner:
        for rows in (bad, bad, good, bad, bad):
            runner.score(rows)
        with pytest.raises(UserError, match=r"'obedient' failed on every .* 3 rollout batches .*no such story"):
            runner.score(bad)


def test_a_window_that_is_scored_in_parts_counts_once() -> None:
    bad, good = rollouts("raise", "1"), rollouts("1", "2")
    with RewardRunner({"obedient": Obedient()}) as runner:
        for rows, again in ((bad, False), (bad, True), (bad, True), (bad, True), (bad, False), (good, True)):
            runner.score(rows, again=again)
        for again in (False, True, False, True):
            assert runner.score(bad, again=again).failures == {"obedient": 2}, "the score before shows that it works"
        with pytest.raises(UserError, match=r"failed on every completion of 3 rollout batches in a row"):
            runner.score(bad)


def test_a_reward_that_has_nothing_to_say_is_not_broken() -> None:
    with RewardRunner({"obedient": Obedient()}) as runner:
        counts = [runner.score(rollouts("none", "none")).failures["obedient"] for _ in range(4)]
    assert counts == [0, 0, 0, 0]


def test_an_independent_reward_is_asked_once_about_the_same(tmp_path: Path) -> None:
    notes = tmp_path / "asked"
    settings = ScoringSettings(independent=("obedient",))
    with RewardRunner({"obedient": Obedient(notes=notes), "share": Share()}, settings) as runner:
        same(runner.score(rollouts("1", "2", "1", "nan")).values, [[1, 0.5], [2, 1], [1, 0.5], [NAN, 1]])
        assert sorted(notes.read_text().split()) == ["1", "2", "nan"]
        same(runner.score(rollouts("2", "none", "nan")).values[:, 0], [2, NAN, NAN])
        same(runner.score(rollouts("none", "1")).values[:, 0], [NAN, 1])
        assert sorted(notes.read_text().split()) == ["1", "2", "nan", "nan", "none"], "what was lost is asked again"
        runner.score(rollouts("1", column=5))
        runner.score(rollouts("1", column=5))
        assert notes.read_text().split().count("1") == 2, "another prompt"


@pytest.mark.parametrize(("size", "asked"), [(0, 4), (1, 4), (2, 2)])
def test_the_memory_is_bounded(size: int, asked: int, tmp_path: Path) -> None:
    notes = tmp_path / "asked"
    settings = ScoringSettings(independent=("obedient",), cache_size=size)
    with RewardRunner({"obedient": Obedient(notes=notes)}, settings) as runner:
        for text in ("1", "2", "1", "2"):
            runner.score(rollouts(text))
    assert len(notes.read_text().split()) == asked


def test_functions_are_rewards_too() -> None:
    with RewardRunner({"length": lambda rows: [len(row.text) for row in rows]}) as runner:  # type: ignore[dict-item]
        same(runner.score(rollouts("ab", "c")).values[:, 0], [2, 1])


def test_what_is_no_reward_is_refused() -> None:
    with pytest.raises(UserError, match="'odd' is a int that cannot be used; it needs"):
        RewardRunner({"odd": 3})  # type: ignore[dict-item]


@pytest.mark.parametrize("value", [threading.Lock(), lambda: 0], ids=["lock", "lambda"])
def test_a_reward_that_no_worker_can_have_is_refused_by_name(value: object) -> None:
    with pytest.raises(UserError, match=r"reward 'other' cannot be pickled .*; define it at the top level"):
        RewardRunner({"share": Share(), "other": Returns(value)}, ScoringSettings(workers=1))  # type: ignore[dict-item]


def test_columns_that_cannot_be_remembered_are_named() -> None:
    with pytest.raises(UserError, match="what a prompt carries in its columns cannot be pickled"):
        run([Obedient()], rollouts("a", lock=threading.Lock()), independent=("obedient",))


@pytest.mark.parametrize(
    ("name", "value"), [("workers", -1), ("timeout", 0.0), ("timeout", NAN), ("concurrency", 0), ("cache_size", -1)]
)
def test_settings_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(UserError, match=f"^model.scoring.{name} is {value}; it must be"):
        ScoringSettings(**{name: value})  # type: ignore[arg-type]


def test_an_unknown_independent_reward_is_refused() -> None:
    with pytest.raises(UserError, match=r"model.scoring.independent: no reward 'shard'; did you mean 'share'\?"):
        RewardRunner({"share": Share()}, ScoringSettings(independent=("shard",)))


def test_a_reward_that_changes_is_not_independent() -> None:
    with pytest.raises(UserError, match=r"model.scoring.independent: 'feature_quality' changes"):
        RewardRunner({"feature_quality": FeatureQuality()}, ScoringSettings(independent=("feature_quality",)))
