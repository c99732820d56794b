"""The weight of the entropy bonus over steps."""

import math

import pytest

from lit_narrative.rl.entropy import AdaptiveEntropy
from lit_narrative.rl.loss_settings import LossSettings

ADAPTIVE = LossSettings(
    use_adaptive_entropy=True, entropy_coef=0.1, entropy_coef_max=0.25, entropy_coef_delta=0.1, entropy_target=1.0
)


def test_a_constant_weight_acts_from_the_first_step() -> None:
    constant = AdaptiveEntropy(LossSettings(entropy_coef=0.01))
    assert constant.coefficient == 0.01
    constant.update(5.0)
    assert constant.coefficient == constant.weight == 0.01


def test_sequence() -> None:
    """Entropy of each step, the weight after it and what acts in the next: only while the entropy is low."""
    control = AdaptiveEntropy(ADAPTIVE)
    assert (control.weight, control.coefficient) == (0.1, 0.0)  # nothing measured yet
    steps = [
        (2.0, 0.0, 0.0),
        (2.0, 0.0, 0.0),  # not below the minimum
        (0.5, 0.1, 0.1),
        (1.0, 0.2, 0.2),  # at the target counts as low
        (0.5, 0.25, 0.25),  # not above the maximum
        (1.5, 0.15, 0.0),
        (0.9, 0.25, 0.25),
    ]
    for entropy, weight, acting in steps:
        control.update(entropy)
        assert (control.weight, control.coefficient) == pytest.approx((weight, acting))


def test_a_resumed_run_goes_on() -> None:
    control, resumed = AdaptiveEntropy(ADAPTIVE), AdaptiveEntropy(ADAPTIVE)
    control.update(0.5)
    resumed.load_state_dict(control.state_dict())
    for entropy in (0.3, 2.0, 0.9):
        assert resumed.coefficient == control.coefficient
        control.update(entropy)
        resumed.update(entropy)
    assert resumed.state_dict() == control.state_dict()


def test_the_first_state_is_without_measurement() -> None:
    assert AdaptiveEntropy(ADAPTIVE).state_dict() == {"weight": 0.1, "entropy": math.inf}
