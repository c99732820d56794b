"""The divergence estimate."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from lit_narrative.rl.kl import k3

Logprob = st.floats(-8, 0)


def test_by_hand() -> None:
    found = k3(torch.tensor([0.0, -1.0]), torch.tensor([-1.0, 0.0]))
    torch.testing.assert_close(found, torch.tensor([math.exp(-1), math.e - 2]))


@given(Logprob, Logprob)
def test_never_negative_and_zero_where_both_agree(policy: float, reference: float) -> None:
    a, b = torch.tensor(policy, dtype=torch.float64), torch.tensor(reference, dtype=torch.float64)
    assert k3(a, b) >= 0
    assert k3(a, a) == 0


def test_its_mean_is_the_divergence() -> None:
    policy, reference = (torch.tensor(p, dtype=torch.float64) for p in ([0.7, 0.2, 0.1], [0.3, 0.3, 0.4]))
    mean = (policy * k3(policy.log(), reference.log())).sum()
    torch.testing.assert_close(mean, (policy * (policy / reference).log()).sum())
