"""Firing counts and reconstruction figures against their definitions."""

import pytest
import torch

from lit_narrative.sae.metrics import Firing, reconstruction_metrics


def test_firing_adds_up_over_batches() -> None:
    firing = Firing(3)
    firing.update(torch.tensor([[1.0, 0.0, 0.0], [2.0, -1.0, 0.0]]))
    firing.update(torch.tensor([[0.5, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    made = firing.compute()
    assert made["density"].tolist() == [0.75, 0.25, 0.0]
    assert made["l0"].item() == 1.0
    assert made["dead_fraction"].item() == pytest.approx(1 / 3)


def test_explained_variance_is_one_minus_the_share_of_variance_left() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 4, generator=generator) * torch.tensor([1.0, 2.0, 3.0, 4.0]) + 5
    rebuilt = x + 0.5 * torch.randn(200, 4, generator=generator)
    metrics = reconstruction_metrics()
    for rows in torch.arange(200).split(64):
        metrics.update(rebuilt[rows], x[rows])
    made = metrics.compute()
    expected = 1 - (x - rebuilt).var(0, correction=0).sum() / x.var(0, correction=0).sum()
    assert made["explained_variance"].item() == pytest.approx(expected.item(), abs=1e-5)
    assert made["mse"].item() == pytest.approx((x - rebuilt).square().mean().item(), rel=1e-5)
