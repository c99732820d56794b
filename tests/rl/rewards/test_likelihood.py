"""LikelihoodGain: against the model itself, and where there is nothing to say."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_narrative.errors import UserError
from lit_narrative.rl.rewards.base import Reward
from lit_narrative.rl.rewards.likelihood import LikelihoodGain
from lit_narrative.views import Rollout
from tests.helpers import tiny_lm, tokenizer

NEXT = '{"name":"salt","count":3}'


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("lm")
    tiny_lm("llama", scale=4.0).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


def rollout(text: str, **columns: Any) -> Rollout:
    ids = torch.tensor([1, 2])
    return Rollout(ids, ids, torch.zeros(2), True, text, "prompt", {"following": NEXT, "sample": "Tide.", **columns})


def by_hand(model: str, before: str, text: str) -> float:
    from transformers import AutoModelForCausalLM

    lm = AutoModelForCausalLM.from_pretrained(model)
    first, second = (tokenizer()(part, add_special_tokens=False)["input_ids"] for part in (f"{before}\n", text))
    logits = lm(torch.tensor([first + second])).logits[0].log_softmax(-1)
    found = [logits[len(first) - 1 + place, token] for place, token in enumerate(second)]
    return float(torch.stack(found).mean())


def test_the_gain_is_that_of_the_model(model: str) -> None:
    reward = LikelihoodGain(model)
    assert isinstance(reward, Reward)
    expected = [by_hand(model, f"Tide.\n{text}", NEXT) - by_hand(model, "Tide.", NEXT) for text in (NEXT, "salt salt")]
    assert reward([rollout(NEXT), rollout("salt salt")]) == pytest.approx(expected, abs=1e-4)
    alone = by_hand(model, "\nsalt", NEXT) - by_hand(model, "", NEXT)
    assert LikelihoodGain(model, before=None)([rollout("salt")]) == pytest.approx([alone], abs=1e-4)


def test_where_there_is_nothing_to_say(model: str) -> None:
    reward = LikelihoodGain(model, tokens=5)
    found = reward([rollout(""), rollout("x", following=""), rollout("\ud83d \x00"), rollout("salt " * 500)])
    assert found[:2] == [0.0, None]
    assert all(value is not None and math.isfinite(value) for value in found[2:])
    assert reward([]) == []
    assert reward([Rollout(torch.tensor([1]), torch.tensor([1]), torch.zeros(1), True, "x")]) == [None]


def test_a_wrong_path_fails_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        LikelihoodGain(str(tmp_path / "none"))
    with pytest.raises(UserError, match="tokens"):
        LikelihoodGain("anything", tokens=0)
