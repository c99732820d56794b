"""Distances of one model from another, in text and in weights."""

import copy
import math

import pytest
import torch

from lit_narrative.errors import UserError
from lit_narrative.lm.perplexity import mean_log_ratio, sampled_nll, weight_distance
from lit_narrative.lm.sampler import LoopSampler, SamplingParams
from tests.helpers import requests, tiny_lm, tokenizer

LM, OTHER = tiny_lm(scale=4), tiny_lm(scale=4, seed=1)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_a_model_is_at_no_distance_from_itself(temperature: float) -> None:
    rollouts = LoopSampler().sample(LM, tokenizer(), requests(), SamplingParams(8, temperature=temperature))
    assert mean_log_ratio(LM, rollouts, temperature) == pytest.approx(0, abs=1e-5)
    assert weight_distance(LM, LM) == 0


def test_what_was_drawn_is_scored_token_by_token() -> None:
    rollouts = LoopSampler().sample(LM, tokenizer(), requests(), SamplingParams(8))
    nll, tokens = sampled_nll(LM, rollouts)
    assert tokens == sum(len(rollout.completion_ids) for rollout in rollouts)
    assert nll == pytest.approx(-sum(float(rollout.logprobs.sum()) for rollout in rollouts), rel=1e-4)
    assert sampled_nll(OTHER, rollouts)[0] > nll + 1


def test_the_log_ratio_is_the_divergence_summed_over_all_tokens() -> None:
    """First tokens only: then the divergence can be had in full."""
    many = requests(["A"], group=4000)
    rollouts = LoopSampler().sample(LM, tokenizer(), many, SamplingParams(1))
    with torch.no_grad():
        ours, theirs = (lm(torch.tensor([many[0].ids])).logits[0, -1].double().log_softmax(-1) for lm in (LM, OTHER))
    gap = ours - theirs
    exact = float((ours.exp() * gap).sum())
    error = float((ours.exp() * (gap - exact) ** 2).sum().sqrt()) / math.sqrt(len(rollouts))
    assert mean_log_ratio(OTHER, rollouts) == pytest.approx(exact, abs=4 * error)
    assert exact > 8 * error


def test_the_distance_of_weights_is_relative() -> None:
    further = copy.deepcopy(LM)
    with torch.no_grad():
        for parameter in further.parameters():
            parameter.mul_(1.25)
    assert weight_distance(further, LM) == pytest.approx(0.25)


def test_models_of_other_sizes_are_refused() -> None:
    with pytest.raises(UserError, match=r"model\.base: these models differ in more than weights"):
        weight_distance(LM, tiny_lm(hidden_size=32))
