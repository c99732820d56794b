"""Why a score was lost, in one line whatever was raised or returned."""

import logging
import pickle

import pytest
import torch

from lit_narrative.rl.rewards.base import REASON_LENGTH, Lost, TimedOut, ask, ask_once, describe, read_score
from tests.rl.rewards.reward_zoo import Obedient, Returns, rollouts


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no message")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x" * 100_000),
        ValueError("a\nb\x1b[2J\u202e" * 50),
        ConnectionError(f"401 for https://me:hunter2@h/?q=hunter2, api_key='hunter2' {'x' * 1000}"),
        Unprintable(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_exception_is_one_short_line_that_a_terminal_can_show(error: Exception) -> None:
    try:
        raise error
    except Exception as raised:
        reason = describe(raised)
    assert len(reason) <= REASON_LENGTH
    assert reason.isprintable()
    assert type(error).__name__ in reason
    assert "test_base.py:" in reason
    assert "hunter2" not in reason


@pytest.mark.parametrize("value", ["x" * 100_000, torch.ones(2), object(), 10**400, float("nan")])
def test_what_is_no_number_is_lost(value: object) -> None:
    answer = read_score(value)
    assert isinstance(answer, Lost)
    assert len(answer) <= REASON_LENGTH


def test_a_reason_passes_a_process_and_keeps_its_kind() -> None:
    reason = TimedOut("no answer within 3 s")
    again = pickle.loads(pickle.dumps(reason))
    assert (again, type(again)) == (reason, TimedOut)
    assert ask("r", Returns([reason, 1]), rollouts("a", "b")) == [reason, 1.0]


def test_outside_of_training_a_lost_score_is_none_and_a_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert ask_once("r", Obedient(), rollouts("1", "raise")) == [None, None]
    assert "'obedient': 2 of 2 completions have no score; first cause: ValueError: no such story" in caplog.text
