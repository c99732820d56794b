"""A trial runs once a model, and an error or a model too short for it is a failure."""

import copy

import pytest
import torch
from transformers import PreTrainedModel

from lit_narrative.lm.self_check import LENGTH, alike, once, too_short
from tests.helpers import tiny_lm


@pytest.mark.parametrize("outcome", [True, False, RuntimeError("no")], ids=str)
def test_a_model_is_tried_once(outcome: bool | Exception) -> None:
    tried: list[PreTrainedModel] = []

    @once
    def trial(base: PreTrainedModel) -> bool:
        tried.append(base)
        assert not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    lm = tiny_lm()
    with torch.autocast("cpu", torch.bfloat16):
        assert [trial(lm), trial(lm)] == [outcome is True] * 2
    assert len(tried) == 1
    trial(copy.deepcopy(lm))
    assert len(tried) == 2


def test_a_model_too_short_fails_untried() -> None:
    trial = once(lambda base: True)
    long, short = tiny_lm(positions=LENGTH), tiny_lm(positions=LENGTH - 1)
    assert [too_short(long), too_short(short)] == [False, True]
    assert [trial(long), trial(short)] == [True, False]


def test_faults_are_told_from_rounding() -> None:
    expected, spread = torch.linspace(-2, 2, 50), torch.tensor(1.0)
    for dtype, rounding, fault in ((torch.float32, 1e-5, 0.01), (torch.bfloat16, 0.05, 1.0)):
        assert alike(expected + rounding, expected, spread, dtype)
        assert not alike(expected + fault, expected, spread, dtype)
        assert not alike(expected * torch.nan, expected, spread, dtype)
