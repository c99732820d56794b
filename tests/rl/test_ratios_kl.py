"""Divergence estimates: their means and their gradients over a distribution that can be summed."""

import math
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lit_narrative.rl.ratios import KLEstimator, kl_divergence

Logprob = st.floats(-8, 0)
REFERENCE = torch.tensor([0.3, 0.3, 0.4], dtype=torch.float64)
LOGITS = torch.tensor([0.9, -0.2, 0.4], dtype=torch.float64)


def policy() -> tuple[torch.Tensor, torch.Tensor]:
    logits = LOGITS.clone().requires_grad_()
    return logits, logits.log_softmax(0)


def exact(logprobs: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return (logprobs.exp() * (logprobs - other)).sum()


def sampled_gradient(estimator: KLEstimator, corrected: bool) -> torch.Tensor:
    """Mean over the policy's own samples of the gradient that the estimate has in a loss."""
    logits, logprobs = policy()
    estimate = kl_divergence(logprobs, REFERENCE.log(), estimator)
    ratio = (logprobs - logprobs.detach()).exp()  # 1, with a gradient
    return torch.autograd.grad((logprobs.detach().exp() * estimate * (ratio if corrected else 1)).sum(), logits)[0]


def gradient(value: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(value, logits)[0]


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [("k1", [1.0, -1.0]), ("k2", [0.5, 0.5]), ("k3", [math.exp(-1), math.e - 2]), ("abs", [1.0, 1.0])],
)
def test_by_hand(estimator: KLEstimator, expected: list[float]) -> None:
    found = kl_divergence(torch.tensor([0.0, -1.0]), torch.tensor([-1.0, 0.0]), estimator)
    torch.testing.assert_close(found, torch.tensor(expected))


@pytest.mark.parametrize("estimator", get_args(KLEstimator))
@given(Logprob, Logprob)
def test_zero_where_both_agree_and_negative_only_for_k1(estimator: KLEstimator, one: float, other: float) -> None:
    a, b = torch.tensor(one, dtype=torch.float64), torch.tensor(other, dtype=torch.float64)
    assert kl_divergence(a, a, estimator) == 0
    assert kl_divergence(a, b, estimator) >= (a - b if estimator == "k1" else 0)


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_the_mean_is_the_divergence(estimator: KLEstimator) -> None:
    _, logprobs = policy()
    mean = (logprobs.exp() * kl_divergence(logprobs, REFERENCE.log(), estimator)).sum()
    torch.testing.assert_close(mean, exact(logprobs, REFERENCE.log()))


def test_the_mean_of_k2_is_not() -> None:
    _, logprobs = policy()
    mean = (logprobs.exp() * kl_divergence(logprobs, REFERENCE.log(), "k2")).sum()
    assert abs(mean / exact(logprobs, REFERENCE.log()) - 1) > 0.01


@pytest.mark.parametrize(("estimator", "corrected"), [("k1", True), ("k3", True), ("k2", False)])
def test_gradients_of_the_reverse_divergence(estimator: KLEstimator, corrected: bool) -> None:
    logits, logprobs = policy()
    expected = gradient(exact(logprobs, REFERENCE.log()), logits)
    assert expected.abs().max() > 0.05
    torch.testing.assert_close(sampled_gradient(estimator, corrected), expected)


def test_k3_without_correction_follows_the_forward_divergence() -> None:
    logits, logprobs = policy()
    forward = (REFERENCE * (REFERENCE.log() - logprobs)).sum()
    torch.testing.assert_close(sampled_gradient("k3", False), gradient(forward, logits))


def test_k1_without_correction_teaches_nothing() -> None:
    torch.testing.assert_close(sampled_gradient("k1", False), torch.zeros(3, dtype=torch.float64))


def test_abs_follows_the_total_variation() -> None:
    logits, logprobs = policy()
    torch.testing.assert_close(
        sampled_gradient("abs", False), gradient((logprobs.exp() - REFERENCE).abs().sum(), logits)
    )


@pytest.mark.parametrize("estimator", get_args(KLEstimator))
def test_corrected_each_has_the_gradient_of_its_own_mean(estimator: KLEstimator) -> None:
    logits, logprobs = policy()
    mean = (logprobs.exp() * kl_divergence(logprobs, REFERENCE.log(), estimator)).sum()
    torch.testing.assert_close(sampled_gradient(estimator, True), gradient(mean, logits))
