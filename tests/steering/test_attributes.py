"""Attributes of prompts: words, weights and settings, and the losses of texts by them."""

import math
from typing import Any

import pytest
import torch

from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.lm.tokenizer import TrainedTokenizer, train_tokenizer
from lit_narrative.lm.vectors.hidden_states import mean_states
from lit_narrative.steering.attributes import Attributes, attribute_losses, read_attributes
from lit_narrative.steering.bags import BagOfWords, BagsOfRows, ColumnBag
from lit_narrative.steering.baselines import LogitBias
from lit_narrative.steering.heads import Target
from lit_narrative.steering.losses import Bags
from lit_narrative.steering.sampler import SteeredSampler, SteeringTotals
from lit_narrative.steering.settings import Attribute
from tests.helpers import PROMPTS, requests, tiny_lm, tokenizer

WORDS = train_tokenizer(["The sea and the salt sea", "a Sea of salt"], TrainedTokenizer(kind="words"))
SEA, UPPER, SALT = WORDS.convert_tokens_to_ids([" sea", " Sea", " salt"])


def of_rows(*given: Attribute) -> BagsOfRows:
    return read_attributes(given, {}, tiny_lm("gpt2"), WORDS).bags


def bags(given: list[Attribute], *columns: dict[str, Any]) -> Bags:
    found = of_rows(*given)(columns, torch.device("cpu"))
    assert found is not None
    return found


def test_weights_of_a_column_reach_the_bag() -> None:
    found = bags([Attribute(column="bag")], {"bag": {"sea": 3.0, "salt": 0.5}}, {"bag": ["sea", "salt"]})
    assert found.ids.tolist() == [[[SEA, SALT]]] * 2
    assert found.weights.tolist() == [[[3.0, 0.5]], [[1.0, 1.0]]]


def test_two_attributes_of_one_column_keep_their_own_settings() -> None:
    found = bags([Attribute(column="bag", cases=True), Attribute(column="bag", weight=2.0)], {"bag": ["sea"]})
    assert found.ids.tolist() == [[[SEA, UPPER], [SEA, 0]]]
    assert found.weights.tolist() == [[[1.0, 1.0], [1.0, 0.0]]]
    assert found.strengths.tolist() == [1.0, 2.0]


def test_words_of_a_column_are_encoded_once() -> None:
    (bag,) = of_rows(Attribute(column="bag")).bags
    assert isinstance(bag, ColumnBag)
    assert bag.of({"bag": ["sea"]}) is bag.of({"bag": ["sea"]})
    assert bag.of({"bag": {"sea": 2.0}}).weights == (2.0,)


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
