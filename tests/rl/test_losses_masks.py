"""Which tokens and completions take part."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from lit_narrative.rl.losses import entropy_threshold, off_policy_mask

ONES = torch.ones(4, 2, dtype=torch.bool)


def test_bad_completions_that_drifted_are_dropped() -> None:
    logprobs = torch.tensor([[-1.0, -1], [-1, -1], [-1, -1], [-1, -1]], requires_grad=True)
    behaviour = torch.tensor([[0.0, -1], [0, -1], [-0.9, -1], [-5, -5]])
    advantages = torch.tensor([[1.0], [-1], [-1], [-1]])
    kept = off_policy_mask(advantages, logprobs, behaviour, ONES, 0.1)
    assert kept.tolist() == [[True], [False], [True], [True]]
    assert not kept.requires_grad


def test_drift_is_the_mean_over_tokens_that_count() -> None:
    behaviour = torch.tensor([[0.0, 50.0], [0.4, torch.nan], [0.4, 0.0], [9.0, 9.0]])
    mask = torch.tensor([[1, 0], [1, 1], [1, 1], [0, 0]], dtype=torch.bool)
    kept = off_policy_mask(-torch.ones(4, 1), torch.zeros(4, 2), behaviour, mask, 0.2)
    assert kept.tolist() == [[True], [True], [True], [True]]
    kept = off_policy_mask(-torch.ones(4, 1), torch.zeros(4, 2), behaviour, mask, 0.1)
    assert kept.tolist() == [[True], [False], [False], [True]]


def test_advantages_of_tokens_give_a_mask_of_tokens() -> None:
    advantages = torch.tensor([[1.0, -1.0]])
    kept = off_policy_mask(advantages, torch.zeros(1, 2), torch.ones(1, 2), ONES[:1], 0.1)
    assert kept.tolist() == [[True, False]]


@given(st.lists(st.floats(0, 8, width=32), min_size=1, max_size=40), st.floats(0, 1))
def test_the_threshold_is_a_quantile(values: list[float], quantile: float) -> None:
    entropies = torch.tensor(values)
    found = entropy_threshold(entropies, quantile)
    torch.testing.assert_close(found, torch.quantile(entropies, 1 - quantile), atol=1e-5, rtol=1e-5)


def test_ends_of_the_quantile() -> None:
    entropies = torch.tensor([0.3, 2.0, 1.0])
    assert (entropies >= entropy_threshold(entropies, 0.0)).tolist() == [False, True, False]
    assert (entropies >= entropy_threshold(entropies, 1.0)).all()
    assert not (torch.ones(3) >= entropy_threshold(torch.empty(0), 0.5)).any()
