"""The fraction of variance explained, its floor, and the losses of reconstructions."""

import math
from typing import Any

import pytest
import torch

from lit_narrative.lm.vectors.fve import FVE, explained_shares, losses, normalise
from tests.paths import GOLDEN


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    if not (GOLDEN / "nla.pt").is_file():
        pytest.skip(f"no golden values at {GOLDEN}; set LIT_GOLDEN")
    return torch.load(GOLDEN / "nla.pt", weights_only=True)  # type: ignore[no-any-return]


def vectors(n: int = 40, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    gold = torch.randn(n, 6, generator=generator) + 2
    return gold + torch.randn(n, 6, generator=generator), gold


def test_losses_are_those_of_each_row() -> None:
    predicted, target = torch.tensor([[3.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    root = 2**0.5
    assert losses(predicted, target).tolist() == [2.0, 2.5]
    assert torch.allclose(losses(predicted, target, scale=root), torch.tensor([0.0, 2.0]), atol=1e-6)
    assert torch.allclose(losses(predicted, target, "cosine"), torch.tensor([0.0, 1.0]), atol=1e-6)
    assert losses(predicted, target, "smooth_l1").tolist() == [0.75, 1.0]


@pytest.mark.parametrize("scale", [None, 1.0, math.sqrt(6)])
def test_batches_make_no_difference_to_the_fve_of_two_passes(scale: float | None) -> None:
    predicted, gold = vectors()
    p, g = normalise(predicted, scale), normalise(gold, scale)
    expected = 1 - (p - g).square().mean() / (g - g.mean(0)).square().mean()
    metric = FVE(6, scale)
    for start, end in ((0, 7), (7, 8), (8, 40)):
        metric.update(predicted[start:end], gold[start:end])
    found = metric.compute()
    assert abs(float(found["fve"] - expected)) < 1e-6
    rows = explained_shares(predicted, gold, scale)
    assert abs(float(rows.mean() - expected)) < 1e-6
    assert abs(float(found["fve_median"] - rows.median())) < 0.2
    assert abs(float(found["fve_median"] - rows.quantile(0.5))) < 1e-9
    assert abs(float(found["cosine"] - torch.cosine_similarity(predicted, gold).mean())) < 1e-6


def test_the_best_constant_answer_scores_the_floor() -> None:
    _, gold = vectors()
    scale = math.sqrt(6)
    constant = normalise(gold, scale).mean(0).expand(40, 6)
    metric = FVE(6, scale)
    metric.update(constant, gold)
    found = metric.compute()
    assert abs(float(found["fve"] - found["floor"])) < 1e-6
    assert found["floor"] < -0.01
    for _ in range(20):
        metric.reset()
        metric.update(torch.randn(1, 6).expand(40, 6), gold)
        assert metric.compute()["fve"] <= found["floor"]


def test_the_floor_of_vectors_as_they_are_is_zero() -> None:
    predicted, gold = vectors()
    metric = FVE(6, None)
    metric.update(predicted, gold)
    assert abs(float(metric.compute()["floor"])) < 1e-9


@pytest.mark.golden
def test_normalised_vectors_are_the_golden_ones(golden: dict[str, Any]) -> None:
    given = golden["ours"]["normalize_in"].requires_grad_()
    out = normalise(given, golden["ours"]["normalize_scale"])
    assert torch.allclose(out, golden["ours"]["normalize_out"], atol=1e-6)
    out.sum().backward()
    assert given.grad is not None
    assert given.grad.isfinite().all()


@pytest.mark.golden
def test_the_fve_is_the_golden_one(golden: dict[str, Any]) -> None:
    given = golden["fve"]
    metric, raw = FVE(12, given["mse_scale"]), FVE(12, None)
    for kind in (metric, raw):
        kind.update(given["pred"], given["gold"])
    found = metric.compute()
    assert abs(float(found["fve"] - given["fve_nrm"])) < 1e-6
    assert abs(float(raw.compute()["fve"] - given["fve_raw"])) < 1e-6
    assert abs(float(found["floor"] - (1 - given["base_meannorm"] / given["var_raw"]))) < 1e-5
    assert abs(float(found["cosine"] - given["cos"].mean())) < 1e-6
    assert torch.allclose(losses(given["pred"], given["gold"], "mse", given["mse_scale"]).mean(), given["mse_nrm"])


@pytest.mark.golden
@pytest.mark.parametrize("kind", ["mse", "smooth_l1", "cosine"])
def test_losses_are_the_golden_ones(golden: dict[str, Any], kind: Any) -> None:
    given = golden["rewards"]
    found = losses(given["pred"], given["target"], kind)
    assert torch.allclose(found.mean(), given[f"critic_loss/{kind}"], atol=1e-6)


@pytest.mark.golden
def test_the_loss_of_some_rows_is_a_mean_over_rows(golden: dict[str, Any]) -> None:
    """The original divided squared errors by rows, not by rows and components, and got 4.389 for the cosine."""
    given = golden["rewards"]
    mse, cosine = (losses(given["pred"], given["target"], kind)[:3].mean() for kind in ("mse", "cosine"))
    assert torch.allclose(mse, given["critic_loss/mse_masked"] / 4, atol=1e-6)
    assert abs(float(cosine) - 0.789) < 1e-3
