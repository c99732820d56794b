"""The steered loop, the baselines of PPLM, best of n, and the calibration of a step."""

import logging
import time
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from lit_narrative.errors import UserError
from lit_narrative.lm.logprobs import completion_batch, score_completions
from lit_narrative.lm.perplexity import external_nll
from lit_narrative.lm.sampler import LoopSampler, Request, SamplingParams
from lit_narrative.lm.vectors.hidden_states import mean_states
from lit_narrative.rl.best_of import BestOf, mean_distinct
from lit_narrative.steering.bags import BagOfWords, BagsOfRows
from lit_narrative.steering.baselines import (
    ActivationAddition,
    Experts,
    LogitBias,
    ReaderDecoding,
    Unsteered,
    contrast_directions,
)
from lit_narrative.steering.calibration import find_strength
from lit_narrative.steering.pplm.settings import PPLMSettings
from lit_narrative.steering.pplm.steerer import PPLM
from lit_narrative.steering.sampler import SteeredSampler, Steerer, Texts, TooStrong
from lit_narrative.views import Prompt, Rollout
from tests.helpers import PROMPTS, TEXTS, requests, tiny_lm, tokenizer

BAG = BagOfWords("bag", ("a", "b"), (70, 80), (1.0, 1.0))
BAGS = BagsOfRows([BAG], [1.0])
LM = tiny_lm("llama", scale=3.0)
OTHER = tiny_lm("llama", scale=3.0, seed=1)
PARAMS = SamplingParams(12, temperature=0.9)


def baselines() -> dict[str, Steerer]:
    directions = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    return {
        "none": Unsteered(),
        "bias": LogitBias(BAGS, 3.0),
        "activation": ActivationAddition(directions, 1, 1.0, 1),
        "experts": Experts(OTHER, None, 0.5),
        "expert and anti-expert": Experts(OTHER, tiny_lm("llama", seed=2), 0.5),
        "pplm": PPLM(PPLMSettings(stepsize=0.1), BAGS),
    }


def write(steerer: Steerer, params: SamplingParams = PARAMS, rows: int = 64) -> tuple[list[Rollout], SteeredSampler]:
    sampler = SteeredSampler(steerer, BAGS, rows)
    return sampler.sample(LM, tokenizer(), requests(), params), sampler


@torch.no_grad()
def nll(prompts: Sequence[Sequence[int]], texts: Sequence[Sequence[int]]) -> float:
    return -float(score_completions(OTHER, completion_batch(prompts, texts)).logprobs.sum())


def ids(rollouts: Sequence[Rollout]) -> list[list[int]]:
    return [rollout.completion_ids.tolist() for rollout in rollouts]


@pytest.mark.parametrize("name", baselines())
def test_a_text_does_not_depend_on_those_beside_it(name: str) -> None:
    split, whole = (write(baselines()[name], rows=rows)[0] for rows in (1, 99))
    assert ids(split) == ids(whole)
    for one, other in zip(split, whole, strict=True):
        torch.testing.assert_close(one.logprobs, other.logprobs, atol=1e-4, rtol=1e-4)


def test_the_plain_steerer_samples_as_the_sampler_does() -> None:
    plain, sampler = write(Unsteered())
    assert ids(plain) == ids(LoopSampler().sample(LM, tokenizer(), requests(), PARAMS))
    metrics = sampler.totals.metrics()
    assert metrics["kl"] == pytest.approx(0, abs=1e-6)
    assert metrics["mass_plain"] == pytest.approx(metrics["mass_steered"]) == pytest.approx(metrics["mass_kept"])


@pytest.mark.parametrize(
    ("name", "passes"),
    [("none", 1), ("bias", 1), ("activation", 1), ("experts", 2), ("expert and anti-expert", 3), ("pplm", 8)],
)
def test_passes_a_token(name: str, passes: float) -> None:
    _, sampler = write(baselines()[name])
    metrics = sampler.totals.metrics()
    assert metrics["passes_per_token"] == passes
    assert metrics["tokens_per_second"] > 0
    assert (metrics["kl"] > 1e-3) == (name != "none")


def test_living_texts_alone_are_counted() -> None:
    rollouts, sampler = write(baselines()["bias"])
    assert sampler.totals.tokens == sum(len(rollout.completion_ids) for rollout in rollouts)


def test_waiting_is_time_too() -> None:
    class Slow(Unsteered):
        def begin(self, lm: PreTrainedModel, texts: Texts) -> ReaderDecoding:
            time.sleep(0.2)
            return super().begin(lm, texts)

    _, sampler = write(Slow())
    assert sampler.totals.seconds > 0.2
    assert sampler.totals.metrics()["tokens_per_second"] == sampler.totals.tokens / sampler.totals.seconds


def test_a_pass_for_the_record_alone_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10**6))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))  # a second each time it is read
    _, sampler = write(baselines()["activation"])
    steps = sampler.totals.passes
    # start and end, the prompts of the plain model, and its token at each step
    assert sampler.totals.seconds == (1 + 2 + 2 * steps) - (1 + steps)


def test_bias_is_added_to_the_words_and_nothing_else() -> None:
    _, sampler = write(LogitBias(BAGS, 2.0), SamplingParams(1))
    plain = sampler.totals.mass_plain / 12
    assert sampler.totals.mass_steered / 12 > 3 * plain
    one = write(LogitBias(BagsOfRows([BAG], [0.5]), 4.0), SamplingParams(1))[1]
    assert one.totals.mass_steered == pytest.approx(sampler.totals.mass_steered)


def test_experts_of_the_model_itself_change_nothing() -> None:
    assert ids(write(Experts(LM, None, 0.7))[0]) == ids(write(Unsteered())[0])
    assert ids(write(Experts(OTHER, OTHER, 0.7))[0]) == ids(write(Unsteered())[0])


def test_alpha_1_without_anti_expert_is_the_expert() -> None:
    expert = LoopSampler().sample(OTHER, tokenizer(), requests(), PARAMS)
    assert ids(write(Experts(OTHER, None, 1.0))[0]) == ids(expert)


def test_no_coefficient_no_change_and_the_hook_is_gone() -> None:
    steerer = ActivationAddition(torch.ones(1, 16), 0, 0.0)
    assert ids(write(steerer)[0]) == ids(write(Unsteered())[0])
    write(baselines()["activation"])
    assert not [part for part in LM.modules() if part._forward_hooks]


def test_texts_may_have_directions_of_their_own() -> None:
    directions = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    mixed = requests(PROMPTS[:1] * 2, group=1)
    for label, request in enumerate(mixed):
        request.prompt.columns["topic"] = ("x", "y")[label]  # type: ignore[index]
    steerer = ActivationAddition(directions, 0, 2.0, "topic", ("x", "y"))
    found = SteeredSampler(steerer).sample(LM, tokenizer(), mixed, PARAMS)
    for label in (0, 1):
        alone = SteeredSampler(ActivationAddition(directions, 0, 2.0, label)).sample(LM, tokenizer(), mixed[:1], PARAMS)
        assert ids([found[label]]) == ids(alone)


def test_directions_are_differences_of_means() -> None:
    texts = {0: TEXTS[:3], 1: TEXTS[3:5], 2: TEXTS[5:9]}
    directions = contrast_directions(LM, tokenizer(), texts, 0)
    hidden = [
        LM(**tokenizer()(text, return_tensors="pt"), output_hidden_states=True).hidden_states[1][0]
        for text in TEXTS[:9]
    ]
    means = torch.stack([states.mean(0) for states in hidden])
    expected = means[3:5].mean(0) - torch.cat([means[:3], means[5:]]).mean(0)
    torch.testing.assert_close(directions[1], expected.detach(), atol=1e-5, rtol=1e-5)


def test_a_label_without_texts_hinders_only_those_who_want_it() -> None:
    classes = ("sea", "wood", "town", "sky")
    texts = {0: TEXTS[:3], 1: [], 2: TEXTS[3:5]}
    directions = contrast_directions(LM, tokenizer(), texts, 0, classes)
    assert directions.isnan().all(1).tolist() == [False, True, False, True]
    del texts[1]
    torch.testing.assert_close(contrast_directions(LM, tokenizer(), texts, 0), directions[:3], equal_nan=True)
    torch.testing.assert_close(directions[0], -directions[2])
    write(ActivationAddition(directions, 0, 0.5, "town", classes))
    with pytest.raises(UserError, match="no training text of the wanted label wood; give some"):
        write(ActivationAddition(directions, 0, 0.5, "wood", classes))


@pytest.mark.parametrize("texts", [{}, {1: TEXTS[:3], 0: []}])
def test_one_label_is_set_against_nothing(texts: dict[int, list[str]]) -> None:
    with pytest.raises(UserError, match=f"has texts of {len([rows for rows in texts.values() if rows])}: give texts"):
        contrast_directions(LM, tokenizer(), texts, 0, ("sea", "wood"))


def test_a_block_that_the_model_lacks() -> None:
    with pytest.raises(UserError, match="blocks 0 to 1, not 7"):
        mean_states(LM, tokenizer(), ["A"], 7)


def test_mean_states_are_those_of_the_text_alone() -> None:
    together = mean_states(LM, tokenizer(), ["A", "A lantern, a tide"])
    output = LM(**tokenizer()("A", return_tensors="pt"), output_hidden_states=True)
    torch.testing.assert_close(together[0], output.hidden_states[-1][0].mean(0).detach(), atol=1e-5, rtol=1e-5)


def test_a_bag_that_never_survives_top_k_is_told(caplog: pytest.LogCaptureFixture) -> None:
    params = SamplingParams(3, top_k=1)
    written = {token for row in ids(write(Unsteered(), params)[0]) for token in row}
    rare = BagOfWords("rare", ("x",), (min(set(range(100)) - written),), (1.0,))
    sampler = SteeredSampler(Unsteered(), BagsOfRows([rare], [1.0]))
    with caplog.at_level(logging.WARNING):
        sampler.sample(LM, tokenizer(), requests(), params)
    assert "ever survived top_k=1" in caplog.text


# --- best of several --------------------------------------------------------------------------------------------------


def test_the_best_by_rank_is_kept_and_the_first_is_the_one_without() -> None:
    seen: list[Rollout] = []

    def shortest(rollouts: Sequence[Rollout]) -> list[float]:
        seen.extend(rollouts)
        return [-float(len(rollout.completion_ids)) for rollout in rollouts]

    best = BestOf(LoopSampler(), 4, shortest).sample(LM, tokenizer(), requests(group=2), PARAMS)
    assert ids(seen[::4]) == ids(LoopSampler().sample(LM, tokenizer(), requests(group=2), PARAMS))
    lengths = torch.tensor([len(rollout.completion_ids) for rollout in seen]).view(-1, 4)
    assert [len(rollout.completion_ids) for rollout in best] == lengths.min(1).values.tolist()


def test_what_repeats_itself_or_cannot_be_scored_is_taken_last() -> None:
    def all_none_but_first(rollouts: Sequence[Rollout]) -> list[float | None]:
        return [None if number % 2 else 0.0 for number in range(len(rollouts))]

    plain = LoopSampler().sample(LM, tokenizer(), requests(group=1), PARAMS)
    assert ids(BestOf(LoopSampler(), 2, all_none_but_first).sample(LM, tokenizer(), requests(group=1), PARAMS)) == ids(
        plain
    )
    pairs: list[Rollout] = []

    def keep(rollouts: Sequence[Rollout]) -> list[float]:
        pairs.extend(rollouts)
        return [1.0 if number % 2 == 0 else 0.0 for number in range(len(rollouts))]

    strict = BestOf(LoopSampler(), 2, keep, min_distinct=0.999).sample(LM, tokenizer(), requests(group=1), PARAMS)
    for row, rollout in enumerate(strict):
        first, second = pairs[2 * row : 2 * row + 2]
        wanted = second if mean_distinct(first) < 0.999 <= mean_distinct(second) else first
        assert rollout is wanted


def test_mean_distinct() -> None:
    rollout = write(Unsteered())[0][0]
    same = Rollout(rollout.prompt_ids, torch.tensor([5, 5, 5, 5]), rollout.logprobs, True, "")
    assert mean_distinct(same) == pytest.approx((1 / 4 + 1 / 3 + 1 / 2) / 3)


# --- judging and searching --------------------------------------------------------------------------------------------


def test_the_judge_scores_completions_alone() -> None:
    rollouts = [rollout for rollout in write(Unsteered())[0] if rollout.text]
    found, tokens = external_nll(OTHER, tokenizer(), rollouts)
    prompts = [tokenizer()(rollout.prompt)["input_ids"] for rollout in rollouts]
    texts = [tokenizer()(rollout.text)["input_ids"] for rollout in rollouts]
    assert tokens == sum(map(len, texts))
    assert found == pytest.approx(nll(prompts, texts), rel=1e-4)


@pytest.mark.parametrize("scale", [1.0, 1e-4, 300.0])
def test_a_strength_is_found_on_either_side(scale: float) -> None:
    def divergence(strength: float) -> float:
        if strength > 50 * scale:
            raise TooStrong("not finite")
        return (strength / scale) ** 2

    found = find_strength(divergence, 0.03)
    assert divergence(found) == pytest.approx(0.03, rel=0.1)


def test_no_strength_in_reach_is_an_error() -> None:
    with pytest.raises(UserError, match="stepsize"):
        find_strength(lambda strength: 0.0, 0.03)


def test_a_step_by_divergence_moves_the_model_so_far() -> None:
    def divergence(stepsize: float) -> float:
        return write(PPLM(PPLMSettings(stepsize=stepsize, num_iterations=1), BAGS))[1].totals.metrics()["kl"]

    assert divergence(find_strength(divergence, 0.02)) == pytest.approx(0.02, rel=0.3)


def test_a_prompt_with_vectors_is_not_steered_without_them() -> None:
    prompt = Prompt("a", injection=np.zeros(16, dtype=np.float32))
    with pytest.raises(UserError, match="reads prompts without vectors"):
        SteeredSampler(Unsteered()).sample(tiny_lm(), tokenizer(), [Request(prompt, [5], [0])], PARAMS)
