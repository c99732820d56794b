"""The correction for a foreign sampler."""

import math

import pytest
import torch

from lit_narrative.rl.ratios import ImportanceMode, importance_ratio

OLD = torch.tensor([[math.log(0.5), math.log(0.6), -9.0], [math.log(0.2), -9.0, -9.0]])
SAMPLER = torch.tensor([[math.log(0.1), math.log(0.5), 3.0], [math.nan, 3.0, 3.0]])
MASK = torch.tensor([[1, 1, 0], [1, 0, 0]], dtype=torch.bool)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("token_truncate", [[3, 1.2, 1], [1, 1, 1]]),
        ("token_mask", [[0, 1.2, 1], [1, 1, 1]]),
        ("sequence_truncate", [[3], [1]]),
        ("sequence_mask", [[0], [1]]),
    ],
)
def test_by_hand(mode: ImportanceMode, expected: list[list[float]]) -> None:
    """Ratios 5 and 1.2; a token without a log-probability counts as 1."""
    ratio, _ = importance_ratio(OLD, SAMPLER, MASK, mode)
    torch.testing.assert_close(ratio, torch.tensor(expected, dtype=torch.float32))


def test_bounds() -> None:
    ratio, _ = importance_ratio(OLD, SAMPLER, MASK, "sequence_truncate", None, None)
    torch.testing.assert_close(ratio, torch.tensor([[6.0], [1.0]]))
    ratio, _ = importance_ratio(OLD, SAMPLER, MASK, "token_mask", 1.1, 10.0)
    torch.testing.assert_close(ratio[0, :2], torch.tensor([5.0, 1.2]))
    assert ratio[1, 0] == 0


def test_metrics() -> None:
    _, metrics = importance_ratio(OLD, SAMPLER, MASK, "token_truncate")
    drift = [math.log(5), math.log(1.2)]  # the unknown token is left out, not counted as 0
    expected = {
        "sampling/sampling_logp_difference/mean": sum(drift) / 2,
        "sampling/sampling_logp_difference/max": drift[0],
        "sampling/importance_sampling_ratio/min": 1.0,
        "sampling/importance_sampling_ratio/mean": (3 + 1.2 + 1) / 3,
        "sampling/importance_sampling_ratio/max": 3.0,
    }
    assert {name: float(value) for name, value in metrics.items()} == pytest.approx(expected)


def test_nothing_to_score() -> None:
    ratio, metrics = importance_ratio(OLD, SAMPLER, torch.zeros_like(MASK), "token_mask")
    assert (ratio == 1).all()
    assert all(value == 0 for value in metrics.values())
