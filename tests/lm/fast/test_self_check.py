"""A check runs once a model, and an error or a model too short for it is a failure."""

import copy

import pytest
import torch
from transformers import PreTrainedModel

from lit_narrative.lm.fast.self_check import LENGTH, allclose, cached_check, too_short
from tests.helpers import tiny_lm


@pytest.mark.parametrize("outcome", [True, False, RuntimeError("no")], ids=str)
def test_a_model_is_tried_once(outcome: bool | Exception) -> None:
    tried: list[PreTrainedModel] = []

    @cached_check
    def check(base: PreTrainedModel) -> bool:
        tried.append(base)
        assert not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    lm = tiny_lm()
    with torch.autocast("cpu", torch.bfloat16):
        assert [check(lm), check(lm)] == [outcome is True] * 2
    assert len(tried) == 1
    check(copy.deepcopy(lm))
    assert len(tried) == 2


def test_a_model_too_short_fails_untried() -> None:
    check = cached_check(lambda base: True)
    long, short = tiny_lm(positions=LENGTH), tiny_lm(positions=LENGTH - 1)
    assert [too_short(long), too_short(short)] == [False, True]
    assert [check(long), check(short)] == [True, False]


def test_faults_are_told_from_rounding() -> None:
    expected, spread = torch.linspace(-2, 2, 50), torch.tensor(1.0)
    for dtype, rounding, fault in ((torch.float32, 1e-5, 0.01), (torch.bfloat16, 0.05, 1.0)):
        assert allclose(expected + rounding, expected, spread, dtype)
        assert not allclose(expected + fault, expected, spread, dtype)
        assert not allclose(expected * torch.nan, expected, spread, dtype)
