"""One loss for each attribute, whatever it was steered by."""

import math

import pytest
import torch

from lit_narrative.lm.hidden_states import mean_states
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.steering.attributes import Attributes, attribute_losses
from lit_narrative.steering.bags import BagOfWords, BagsOfRows, ColumnBag
from lit_narrative.steering.baselines import LogitBias
from lit_narrative.steering.heads import Target
from lit_narrative.steering.sampler import SteeredSampler, SteeringTotals
from tests.helpers import PROMPTS, requests, tiny_lm, tokenizer

LM = tiny_lm("llama", scale=3.0)
ONE, TWO = BagOfWords("bags/one.txt", ("a", "b"), (70, 80), (1.0, 1.0)), BagOfWords("two", ("c",), (90,), (1.0,))
HEAD = Target(torch.randn(3, 16, generator=torch.Generator().manual_seed(0)), torch.zeros(3), "y", 0.5, ("x", "y", "z"))


def test_a_bag_s_loss_is_that_of_what_is_drawn_from() -> None:
    """First tokens of one prompt: then the probabilities can be had directly."""
    group = requests(PROMPTS[:1], group=3)
    bags = BagsOfRows([ONE, TWO], [1.0, 0.1])  # strengths count in steering alone
    sampler = SteeredSampler(LogitBias(BagsOfRows([ONE], [1.0]), 3.0), bags)
    rollouts = sampler.sample(LM, tokenizer(), group, SamplingParams(1, top_k=5))
    with torch.no_grad():
        logits = LM(torch.tensor([group[0].ids])).logits[0, -1]
    logits[[70, 80]] += 3
    expected = {"one": -math.log(logits.softmax(-1)[[70, 80]].sum()), "two": -math.log(logits.softmax(-1)[90])}
    found = attribute_losses(Attributes(bags, ()), sampler.totals, LM, tokenizer(), rollouts)
    assert found == pytest.approx(expected, rel=1e-4)


def test_a_head_s_loss_is_that_of_finished_texts_and_names_are_told_apart() -> None:
    bags = BagsOfRows([ONE, ColumnBag("topic", lambda words: ONE), ONE], [1.0] * 3)
    sampler = SteeredSampler(LogitBias(BagsOfRows([ONE], [1.0]), 3.0))
    rollouts = sampler.sample(LM, tokenizer(), requests(PROMPTS[:2], group=2), SamplingParams(4))
    totals = SteeringTotals(measured=2, bag_losses=torch.tensor([2.0, 4.0, 6.0]))
    found = attribute_losses(Attributes(bags, (HEAD,)), totals, LM, tokenizer(), rollouts)
    states = mean_states(LM, tokenizer(), [rollout.prompt + rollout.text for rollout in rollouts])
    assert found.pop("y") == pytest.approx(-float(HEAD.logits(states).log_softmax(-1)[:, 1].mean()), rel=1e-5)
    assert found == {"one": 1.0, "topic": 2.0, "one_2": 3.0}


def test_nothing_to_steer_to_has_no_loss() -> None:
    assert attribute_losses(Attributes(BagsOfRows([], []), ()), SteeringTotals(), LM, tokenizer(), []) == {}
