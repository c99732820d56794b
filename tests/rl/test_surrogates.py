"""Policy terms: what they reward, where they stop, what they log."""

import math

import pytest
import torch

from lit_narrative.rl.loss_settings import LossSettings
from lit_narrative.rl.surrogates import SURROGATES, SurrogateInputs, cispo, clipped, gamma_weights, sapo


def step(log_ratio: list[float], advantage: float, is_ratio: float | None = None) -> SurrogateInputs:
    """One completion of some tokens each with its own log-ratio."""
    old = torch.zeros(1, len(log_ratio), dtype=torch.float64)
    logprobs = torch.tensor([log_ratio], dtype=torch.float64, requires_grad=True)
    advantages = torch.full((1, 1), advantage, dtype=torch.float64)
    corrected = None if is_ratio is None else torch.full_like(old, is_ratio)
    return SurrogateInputs(
        logprobs, old, logprobs - old, (logprobs - old).exp(), advantages, torch.ones(1, len(log_ratio)) > 0, corrected
    )


def slopes(kind: str, advantage: float, ratios: list[float], **options: float) -> list[float]:
    """d term / d log pi of tokens with the given ratios."""
    given = step([math.log(ratio) for ratio in ratios], advantage)
    term = SURROGATES[kind](given, LossSettings(kind, **options)).term  # type: ignore[arg-type]
    return torch.autograd.grad(term.sum(), given.logprobs)[0][0].tolist()


def test_clipping_stops_the_gradient_on_the_good_side_only() -> None:
    ratios = [0.5, 0.9, 1.1, 1.5]
    assert slopes("grpo", 1.0, ratios) == pytest.approx([-0.5, -0.9, -1.1, 0])
    assert slopes("grpo", -1.0, ratios) == pytest.approx([0, 0.9, 1.1, 1.5])
    assert slopes("grpo", 1.0, ratios, epsilon_high=0.6) == pytest.approx([-0.5, -0.9, -1.1, -1.5])


def test_delta_stops_it_on_the_bad_side_too() -> None:
    assert slopes("grpo", -1.0, [1.5, 2.5], delta=2.0) == pytest.approx([1.5, 0])
    assert slopes("grpo", 1.0, [1.1, 1.5], delta=2.0) == pytest.approx([-1.1, 0])


def test_cispo_caps_the_weight_but_never_the_gradient() -> None:
    assert slopes("cispo", 1.0, [0.5, 3.0, 50.0]) == pytest.approx([-0.5, -3.0, -5.0])
    found = cispo(step([math.log(50.0), 0.0], 1.0), LossSettings("cispo")).averages
    assert found["cispo_clip_ratio"].tolist() == [[True, False]]


def test_sapo_fades_where_clipping_stops() -> None:
    """Slope 4 s (1 - s) ratio with s the sigmoid: 1 at ratio 1."""
    found = slopes("sapo", 1.0, [1.0, 2.0, 6.0])
    sigmoid = 1 / (1 + math.exp(-1.0))
    assert found[:2] == pytest.approx([-1.0, -4 * sigmoid * (1 - sigmoid) * 2])
    assert abs(found[2]) < 0.2
    assert sapo(step([0.0], 1.0), LossSettings("sapo")).averages == {}


def test_sapo_is_steeper_for_what_was_bad() -> None:
    assert slopes("sapo", -1.0, [2.0])[0] < -slopes("sapo", 1.0, [2.0])[0]


@pytest.mark.parametrize(("advantage", "k", "decay"), [(1.0, 2.0, 3.0), (0.0, 2.0, 3.0), (-1.0, 3.0, 2.0)])
def test_gamma_weight_of_a_completion(advantage: float, k: float, decay: float) -> None:
    """w^k exp(lambda (1 - w)) with w the product of its ratios."""
    w = 1.5 * 0.8
    found = gamma_weights(step([math.log(1.5), math.log(0.8)], advantage), LossSettings("vespo"))
    assert found.item() == pytest.approx(w**k * math.exp(decay * (1 - w)))
    assert gamma_weights(step([0.0, 0.0], advantage), LossSettings("vespo")).item() == pytest.approx(1)


def test_gamma_weights_take_in_the_foreign_sampler() -> None:
    a = gamma_weights(step([0.0, 0.0], 1.0, is_ratio=1.1), LossSettings("vespo"))
    b = gamma_weights(step([math.log(1.1)] * 2, 1.0), LossSettings("vespo"))
    torch.testing.assert_close(a, b)


@pytest.mark.parametrize("far", [800.0, -800.0])
def test_gamma_weights_stay_finite(far: float) -> None:
    assert 0 <= gamma_weights(step([far, far], 1.0), LossSettings("vespo")).item() < 1e-6


def test_what_clipping_logs() -> None:
    found = clipped(step([math.log(r) for r in (0.5, 1.0, 1.5)], -1.0), LossSettings("grpo")).averages
    assert found["clip_ratio/low_mean"].tolist() == [[True, False, False]]
    assert found["clip_ratio/high_mean"].tolist() == [[False, False, False]]
    assert found["clip_ratio/region_mean"].tolist() == [[True, False, False]]
