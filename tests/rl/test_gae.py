"""PPO: advantages against a loop, and the value loss."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lit_narrative.errors import UserError
from lit_narrative.rl.gae import ValueSettings, gae, value_loss

LENGTHS = (9, 1, 4, 0, 8)
MASK = torch.arange(9) < torch.tensor(LENGTHS)[:, None]


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loop(rewards: torch.Tensor, values: torch.Tensor, gamma: float, lam: float) -> torch.Tensor:
    """From the last token to the first, as the paper writes it."""
    advantages = torch.zeros_like(values)
    for row, length in enumerate(LENGTHS):
        after, value_after = 0.0, 0.0
        for place in reversed(range(length)):
            delta = float(rewards[row, place]) + gamma * value_after - float(values[row, place])
            after = delta + gamma * lam * after
            value_after = float(values[row, place])
            advantages[row, place] = after
    return advantages


@given(gamma=st.floats(0, 1), lam=st.floats(0, 1), seed=st.integers(0, 5))
def test_it_is_the_loop(gamma: float, lam: float, seed: int) -> None:
    rewards, values = normal(seed, 5, 9), normal(seed + 10, 5, 9)
    advantages, returns = gae(rewards, values, MASK, gamma=gamma, lam=lam)
    torch.testing.assert_close(advantages, loop(rewards, values, gamma, lam))
    torch.testing.assert_close(returns, (advantages + values) * MASK)


def test_undiscounted_advantages_are_returns_minus_values() -> None:
    rewards, values = normal(0, 5, 9) * MASK, normal(1, 5, 9)
    advantages, returns = gae(rewards, values, MASK, gamma=1.0, lam=1.0)
    to_go = rewards.flip(1).cumsum(1).flip(1)
    torch.testing.assert_close(returns, to_go * MASK)
    torch.testing.assert_close(advantages, (to_go - values) * MASK)


def test_one_step_ahead() -> None:
    """With lambda 0 a perfect value leaves no advantage."""
    rewards = torch.tensor([[0.0, 0, 1]])
    values = torch.tensor([[0.81, 0.9, 1.0]])
    advantages, _ = gae(rewards, values, torch.ones(1, 3, dtype=torch.bool), gamma=0.9, lam=0.0)
    torch.testing.assert_close(advantages, torch.zeros(1, 3))


def test_nothing_outside_of_the_mask_counts() -> None:
    rewards, values = normal(0, 5, 9), normal(1, 5, 9)
    spoilt = [tensor.masked_fill(~MASK, torch.nan) for tensor in (rewards, values)]
    clean = gae(rewards, values, MASK, gamma=0.9, lam=0.8)
    torch.testing.assert_close(gae(spoilt[0], spoilt[1], MASK, gamma=0.9, lam=0.8), clean)


def test_value_loss_by_hand() -> None:
    """Values that left the old ones by more than the clip towards the return keep the larger, clipped error."""
    values = torch.tensor([[1.0, 1.0, -1.0, 7.0]], requires_grad=True)
    old, returns = torch.zeros(1, 4), torch.tensor([[1.0, 0.1, 1.0, 0.0]])
    mask = torch.tensor([[True, True, True, False]])
    loss, share = value_loss(values, old, returns, mask, 6, 0.2)
    torch.testing.assert_close(loss, torch.tensor((0.8**2 + 0.9**2 + 2.0**2) / 2 / 6))
    assert float(share) == pytest.approx(1 / 6)
    (gradient,) = torch.autograd.grad(loss, values)
    torch.testing.assert_close(gradient, torch.tensor([[0.0, 0.9, -2.0, 0.0]]) / 6)
    assert not share.requires_grad


def test_without_clipping_it_is_half_the_squared_error() -> None:
    values, returns = normal(2, 5, 9), normal(3, 5, 9)
    loss, share = value_loss(values, normal(4, 5, 9), returns, MASK, int(MASK.sum()), None)
    torch.testing.assert_close(loss, (values - returns)[MASK].square().mean() / 2)
    assert share == 0


def test_the_cut_of_a_window_changes_nothing() -> None:
    values, old, returns = (normal(seed, 5, 9) for seed in range(3))
    whole = value_loss(values, old, returns, MASK, 22, 0.2)
    parts = [value_loss(values[r], old[r], returns[r], MASK[r], 22, 0.2) for r in ([4, 0], [3], [1, 2])]
    for place in (0, 1):
        torch.testing.assert_close(torch.stack([part[place] for part in parts]).sum(), whole[place])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": 1.1}, r"model\.value\.gamma=1\.1 must be in 0\.\.1"),
        ({"lam": -0.1}, r"model\.value\.lam=-0\.1 must be in 0\.\.1"),
        ({"value_clip": 0.0}, r"model\.value\.value_clip=0\.0 must be above 0"),
        ({"value_loss_weight": 0.0}, r"model\.value\.value_loss_weight=0\.0 must be above 0"),
    ],
)
def test_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ValueSettings(**options)


def test_clipping_can_be_off() -> None:
    assert ValueSettings(value_clip=None).value_clip is None
