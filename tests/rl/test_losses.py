"""The policy loss against a loop over tokens, and the invariance that the exact totals buys."""

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_narrative.rl.loss_settings import LossSettings, LossType
from lit_narrative.rl.losses import LossInputs, LossOutput, StepTotals, aggregate, policy_loss

TYPES: tuple[LossType, ...] = get_args(LossType)
LEVELS = ("token", "sequence", "sentence")
LENGTHS = (6, 1, 3, 6, 0)


def combinations() -> list[LossSettings]:
    """Every loss type at every level that it has."""
    pairs = [(kind, level) for kind in TYPES for level in LEVELS if kind != "vespo" or level == "token"]
    return [LossSettings(kind, level) for kind, level in pairs]  # type: ignore[arg-type]


def name(found: LossSettings) -> str:
    return f"{found.loss_type}/{found.importance_sampling_level}"


def batch(seed: int = 0, lengths: tuple[int, ...] = LENGTHS) -> LossInputs:
    """Random completions with everything that a loss can ask for."""
    generator = torch.Generator().manual_seed(seed)
    rows, longest = len(lengths), 6

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    logprobs = -normal(rows, longest).abs()
    return LossInputs(
        logprobs.requires_grad_(),
        logprobs.detach() + 0.4 * normal(rows, longest),
        torch.arange(longest) < torch.tensor(lengths)[:, None],
        normal(rows),
        logprobs.detach() + 0.4 * normal(rows, longest),
        normal(rows, longest).abs().requires_grad_(),
        logprobs.detach() + 0.4 * normal(rows, longest),
        normal(rows, longest).exp(),
        torch.arange(longest).div(2, rounding_mode="floor").expand(rows, -1),
        normal(rows, longest) > -0.5,
    )


def totals_of(inputs: LossInputs, length: int = 7) -> StepTotals:
    kept = int((inputs.mask if inputs.keep is None else inputs.mask & inputs.keep).sum())
    return StepTotals(len(inputs.mask), int(inputs.mask.sum()), kept, length)


def select(inputs: LossInputs, rows: list[int]) -> LossInputs:
    return LossInputs._make(None if value is None else value[rows] for value in inputs)


def gradients(loss: torch.Tensor, inputs: LossInputs) -> tuple[torch.Tensor, torch.Tensor]:
    assert inputs.entropy is not None
    policy, entropy = torch.autograd.grad(loss, (inputs.logprobs, inputs.entropy), allow_unused=True)
    return policy, torch.zeros_like(inputs.entropy) if entropy is None else entropy


# --- against a loop ---------------------------------------------------------------------------------------------------


def log_ratio(inputs: LossInputs, row: int, place: int, level: str) -> torch.Tensor:
    """Logarithm of the ratio of one token, at its level."""
    difference = inputs.logprobs[row] - inputs.old[row]  # type: ignore[index]
    places = [t for t in range(len(difference)) if inputs.mask[row, t]]
    if level == "token":
        return difference[place]
    if level == "sentence":
        sentence = inputs.sentences[row, place]  # type: ignore[index]
        places = [t for t in places if inputs.sentences[row, t] == sentence]  # type: ignore[index]
    return torch.stack([difference[t] for t in places]).mean()


def token_term(inputs: LossInputs, row: int, place: int, s: LossSettings) -> torch.Tensor:
    """The policy term of one token, as the papers write it."""
    advantage, logprob = inputs.advantages[row], inputs.logprobs[row, place]
    ratio = log_ratio(inputs, row, place, s.importance_sampling_level).exp()
    if s.loss_type == "cispo":
        return -min(float(ratio.detach()), 5.0) * advantage * logprob
    if s.loss_type == "sapo":
        tau = s.sapo_temperature_pos if advantage > 0 else s.sapo_temperature_neg
        return -4 / tau / (1 + (-tau * (ratio - 1)).exp()) * advantage
    if s.loss_type == "vespo":
        places = [t for t in range(inputs.mask.shape[1]) if inputs.mask[row, t]]
        w = math.exp(sum(float(log_ratio(inputs, row, t, "token").detach()) for t in places))
        k, decay = (2.0, 3.0) if advantage >= 0 else (3.0, 2.0)
        return -(w**k) * math.exp(decay * (1 - w)) * advantage * logprob
    low, high = 1 - s.epsilon, 1 + (s.epsilon if s.epsilon_high is None else s.epsilon_high)
    first = ratio if s.delta is None else min(ratio, torch.tensor(s.delta))
    second = min(max(ratio, torch.tensor(low)), torch.tensor(high))
    return -min(first * advantage, second * advantage)


def loop(inputs: LossInputs, totals: StepTotals, s: LossSettings) -> torch.Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for row in range(len(inputs.mask)):
        places = [t for t in range(inputs.mask.shape[1]) if inputs.mask[row, t]]
        for place in places:
            difference = inputs.logprobs[row, place] - inputs.reference[row, place]  # type: ignore[index]
            ratio = log_ratio(inputs, row, place, s.importance_sampling_level).exp()
            term = token_term(inputs, row, place, s) + s.beta * ratio * ((-difference).exp() + difference - 1)
            total = total + term / divisor(s.loss_type, len(places), totals)
    return total


def divisor(loss_type: LossType, length: int, totals: StepTotals) -> float:
    return {
        "grpo": totals.rows * length,
        "sapo": totals.rows * length,
        "luspo": totals.rows,
        "dr_grpo": totals.rows * totals.max_completion_length,
    }.get(loss_type, totals.tokens)


@pytest.mark.parametrize("s", combinations(), ids=name)
def test_values_and_gradients_are_those_of_the_loop(s: LossSettings) -> None:
    inputs, totals = batch()._replace(is_ratio=None, keep=None), StepTotals(11, 40, 40, 7)
    found, expected = policy_loss(inputs, totals, s).loss, loop(inputs, totals, s)
    torch.testing.assert_close(found, expected)
    gradient, _ = gradients(found, inputs)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, inputs.logprobs)[0])
    assert (gradient[~inputs.mask] == 0).all()


def test_two_sided_clipping_is_that_of_the_loop() -> None:
    s, totals = LossSettings("grpo", delta=1.5, epsilon_high=0.3), StepTotals(11, 40, 40, 7)
    inputs = batch(seed=3)._replace(is_ratio=None, keep=None)
    found = policy_loss(inputs, totals, s).loss
    torch.testing.assert_close(found, loop(inputs, totals, s))
    assert found != policy_loss(inputs, totals, replace(s, delta=None)).loss


def test_one_token_by_hand() -> None:
    """Ratio 1.5 with a good advantage is clipped at 1.3, with a bad one it is not."""
    ratio = torch.tensor([[math.log(1.5)], [math.log(1.5)], [math.log(0.5)], [math.log(0.5)]])
    mask, advantages = torch.ones(4, 1, dtype=torch.bool), torch.tensor([1.0, -1, 1, -1])
    inputs = LossInputs(ratio, torch.zeros(4, 1), mask, advantages)
    output = policy_loss(inputs, StepTotals(4, 4, 4, 1), LossSettings("luspo", epsilon_high=0.3, beta=0.0))
    torch.testing.assert_close(output.loss, torch.tensor((-1.3 + 1.5 - 0.5 + 0.8) / 4))
    found = {key: float(value) for key, value in {**output.sums, **output.min_max}.items()}
    shares = {"clip_ratio/low_mean": 0.25, "clip_ratio/high_mean": 0.25, "clip_ratio/region_mean": 0.5}
    ends = {"clip_ratio/low_min": 0.0, "clip_ratio/high_max": 1.0}
    assert found == pytest.approx({**shares, **ends, "policy_loss": float(output.loss)})


# --- the exact totals -------------------------------------------------------------------------------------------------


def combined(outputs: list[LossOutput]) -> tuple[dict[str, float], dict[str, float]]:
    metrics = {key: sum(float(o.sums[key]) for o in outputs) for key in outputs[0].sums}
    ends: dict[str, Any] = {"min": min, "max": max}
    min_max = {key: ends[key[-3:]](float(o.min_max[key]) for o in outputs) for key in outputs[0].min_max}
    return metrics, min_max


@pytest.mark.parametrize("s", combinations(), ids=name)
@given(order=st.permutations(range(len(LENGTHS))), cuts=st.sets(st.integers(1, 4)), seed=st.integers(0, 3))
@settings(max_examples=15, deadline=None)
def test_the_cut_of_a_window_changes_nothing(s: LossSettings, order: list[int], cuts: set[int], seed: int) -> None:
    """Invariant 3 in the loss itself, for every type with all masks: any rows together, in any order."""
    s = replace(s, off_policy_mask_threshold=0.05)
    inputs = batch(seed)
    totals = totals_of(inputs)
    whole = policy_loss(inputs, totals, s, entropy_coef=0.3)
    edges = [0, *sorted(cuts), len(order)]
    parts = [select(inputs, order[a:b]) for a, b in pairwise(edges)]
    outputs = [policy_loss(part, totals, s, entropy_coef=0.3) for part in parts]
    loss = torch.stack([output.loss for output in outputs]).sum()
    torch.testing.assert_close(loss, whole.loss)
    for found, expected in zip(gradients(loss, inputs), gradients(whole.loss, inputs), strict=True):
        torch.testing.assert_close(found, expected)
    for found_logs, logs in zip(combined(outputs), combined([whole]), strict=True):
        assert found_logs == pytest.approx(logs)


@pytest.mark.parametrize("s", combinations(), ids=name)
@pytest.mark.parametrize("of_tokens", [False, True], ids=["advantages of completions", "of tokens"])
def test_completions_of_one_token_count_the_same_beside_any_others(s: LossSettings, of_tokens: bool) -> None:
    """A micro-batch is as wide as its longest completion: one of width 1 has shape (R, 1), as whole completions do."""
    s, inputs = replace(s, off_policy_mask_threshold=0.05), batch(2, (1, 4, 1, 1, 0))
    if of_tokens:
        inputs = inputs._replace(advantages=inputs.advantages[:, None] * torch.linspace(-1, 2, 6))
    totals = totals_of(inputs)
    narrow = [
        LossInputs._make(None if value is None else value[:, :1] if value.ndim == 2 else value for value in part)
        for part in (select(inputs, [0, 2]), select(inputs, [3, 4]))
    ]
    outputs = [policy_loss(part, totals, s, entropy_coef=0.3) for part in (*narrow, select(inputs, [1]))]
    whole = policy_loss(inputs, totals, s, entropy_coef=0.3)
    torch.testing.assert_close(torch.stack([output.loss for output in outputs]).sum(), whole.loss)
    for found, expected in zip(combined(outputs), combined([whole]), strict=True):
        assert found == pytest.approx(expected)


def test_bnpo_is_dapo_on_the_whole_window() -> None:
    inputs = batch()
    a, b = (policy_loss(inputs, totals_of(inputs), LossSettings(kind)) for kind in ("bnpo", "dapo"))  # type: ignore[arg-type]
    assert a.loss == b.loss


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind not in ("cispo", "vespo", "sapo")])
def test_on_policy_gradient_is_advantage_times_score(kind: LossType) -> None:
    inputs = batch()._replace(old=None, reference=None, is_ratio=None, keep=None)
    totals = totals_of(inputs)
    gradient, _ = gradients(policy_loss(inputs, totals, LossSettings(kind, beta=0.0)).loss, inputs)
    lengths = inputs.mask.sum(1).tolist()
    weights = torch.tensor([1 / divisor(kind, max(length, 1), totals) for length in lengths], dtype=torch.float64)
    torch.testing.assert_close(gradient, -(inputs.advantages * weights)[:, None] * inputs.mask)


@pytest.mark.parametrize("kind", ["cispo", "vespo", "sapo"])
def test_on_policy_all_weights_are_one(kind: LossType) -> None:
    """The gradients of the unclipped losses agree there: the sigmoid of SAPO has slope 1 at ratio 1."""
    inputs = batch()._replace(old=None, reference=None, is_ratio=None, keep=None)
    totals = totals_of(inputs)
    plain: LossType = "grpo" if kind == "sapo" else "dapo"
    a, b = (gradients(policy_loss(inputs, totals, LossSettings(k, beta=0.0)).loss, inputs)[0] for k in (kind, plain))
    torch.testing.assert_close(a, b)


# --- masks and multipliers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("s", combinations(), ids=name)
def test_masked_tokens_count_for_nothing_whatever_stands_there(s: LossSettings) -> None:
    s = replace(s, off_policy_mask_threshold=0.05)
    inputs = batch()
    totals = totals_of(inputs)

    def junk(values: torch.Tensor | None) -> torch.Tensor:
        assert values is not None
        return values.detach().masked_fill(~inputs.mask, torch.nan)

    spoilt = inputs._replace(
        logprobs=junk(inputs.logprobs).requires_grad_(),
        old=junk(inputs.old),
        reference=junk(inputs.reference),
        sampler=junk(inputs.sampler),
        entropy=inputs.entropy,
    )
    a, b = (policy_loss(part, totals, s) for part in (inputs, spoilt))
    torch.testing.assert_close(a, b)
    torch.testing.assert_close(gradients(a.loss, inputs)[0], gradients(b.loss, spoilt)[0])


def test_masks_and_correction_spare_the_divergence() -> None:
    inputs, s = batch(), LossSettings("dapo", beta=0.5)
    totals = totals_of(inputs)
    nothing = inputs._replace(keep=torch.zeros_like(inputs.mask), is_ratio=torch.full((5, 1), 7.0))
    output = policy_loss(nothing, totals, s)
    assert output.loss.item() == pytest.approx(0.5 * float(output.sums["kl"]))
    assert policy_loss(inputs, totals, s).sums["kl"] == output.sums["kl"]


def test_the_correction_for_a_foreign_sampler_is_a_factor() -> None:
    inputs, totals, s = batch()._replace(keep=None), StepTotals(5, 16, 16, 7), LossSettings("dapo", beta=0.0)
    twice = inputs._replace(is_ratio=torch.full((5, 1), 2.0, dtype=torch.float64))
    once = policy_loss(inputs._replace(is_ratio=None), totals, s).loss
    torch.testing.assert_close(policy_loss(twice, totals, s).loss, 2 * once)


def test_the_off_policy_mask_prefers_the_sampler() -> None:
    """Without one the old policy stands for it."""
    inputs, s = batch(seed=1), LossSettings("dapo", off_policy_mask_threshold=0.0, beta=0.0)
    inputs, totals = inputs._replace(advantages=-inputs.advantages.abs()), totals_of(inputs)
    sampler = inputs.logprobs.detach() + 1.0  # every completion is less likely now
    gone = policy_loss(inputs._replace(sampler=sampler), totals, s)
    assert gone.loss.item() == 0
    assert float(gone.sums["off_policy_mask/dropped_mean"]) == pytest.approx(4 / 5)  # one completion is empty
    same = inputs._replace(sampler=inputs.old)
    assert policy_loss(inputs._replace(sampler=None), totals, s).loss == policy_loss(same, totals, s).loss


def test_entropy_bonus() -> None:
    """-c times the mean entropy of the tokens that it acts on; its gradient too."""
    inputs, s = batch(), LossSettings("grpo")
    totals = totals_of(inputs)
    acting = inputs.mask & inputs.keep  # type: ignore[operator]
    mean = inputs.entropy[acting].mean()  # type: ignore[index]
    plain, with_bonus = (policy_loss(inputs, totals, s, entropy_coef=c) for c in (0.0, 0.3))
    torch.testing.assert_close(with_bonus.loss, plain.loss - 0.3 * mean)
    assert with_bonus.sums["policy_loss"] == plain.loss
    torch.testing.assert_close(with_bonus.sums["entropy_bonus"], mean.detach())
    torch.testing.assert_close(with_bonus.sums["entropy"], inputs.entropy[inputs.mask].mean().detach())  # type: ignore[index]
    _, gradient = gradients(with_bonus.loss, inputs)
    torch.testing.assert_close(gradient, -0.3 * acting.double() / acting.sum())


def test_advantages_of_tokens() -> None:
    """A column of equal advantages is the same as one for the row."""
    inputs, s = batch(), LossSettings("grpo", "sequence")
    totals = totals_of(inputs)
    spread = inputs._replace(advantages=inputs.advantages[:, None].expand(-1, 6))
    torch.testing.assert_close(policy_loss(spread, totals, s).loss, policy_loss(inputs, totals, s).loss)


def test_divergence_in_the_reward_stays_out_of_the_loss() -> None:
    inputs = batch()
    totals = totals_of(inputs)
    inside, outside, none = (
        policy_loss(inputs, totals, LossSettings("dapo", **options))
        for options in ({"kl_in_reward": True}, {"use_bias_correction_kl": False}, {"beta": 0.0})  # type: ignore[arg-type]
    )
    assert inside.loss == none.loss != outside.loss
    assert inside.sums["kl"] == outside.sums["kl"]
    assert none.sums["kl"] > outside.sums["kl"] / 2  # without weight it is still watched


def test_what_is_logged_has_no_gradient() -> None:
    inputs = batch()
    output = policy_loss(inputs, totals_of(inputs), LossSettings("grpo"), entropy_coef=0.1)
    assert output.loss.requires_grad
    assert not any(value.requires_grad for value in (*output.sums.values(), *output.min_max.values()))


def test_an_empty_window_has_no_loss() -> None:
    nothing = batch(lengths=(0, 0))
    for kind in TYPES:
        output = policy_loss(nothing, totals_of(nothing), LossSettings(kind), entropy_coef=0.1)
        assert output.loss == 0
        assert "entropy_bonus" not in output.sums, "there is no mean of nothing"
        assert all(value == 0 for key, value in output.sums.items() if key != "vespo/phi_seq_mean")
        assert all(value.isinf() for value in output.min_max.values())
    assert aggregate(torch.ones(2, 3), torch.zeros(2, 3, dtype=torch.bool), StepTotals(2, 0, 0, 5), LossSettings()) == 0


def test_missing_inputs_are_named() -> None:
    inputs = batch()
    with pytest.raises(ValueError, match=r"beta=0\.04 needs log-probabilities of the reference"):
        policy_loss(inputs._replace(reference=None), totals_of(inputs), LossSettings())
    with pytest.raises(ValueError, match=r"bonus of weight 0\.1 needs the entropy of each token"):
        policy_loss(inputs._replace(entropy=None), totals_of(inputs), LossSettings(), entropy_coef=0.1)
    with pytest.raises(ValueError, match="sentence level needs the sentence of each token"):
        policy_loss(inputs._replace(sentences=None), totals_of(inputs), LossSettings("grpo", "sentence"))
