"""Training of sparse autoencoders: starts, warm-ups, batches, one loop, and ranks that agree."""

from typing import Any

import pytest
import torch

from lit_narrative.sae.autoencoder import build_sae
from lit_narrative.sae.training import batches, coefficients, fit, geometric_median, sync_ranks
from tests.sae.test_autoencoder import build, vectors


def test_the_geometric_median_is_not_moved_by_an_outlier() -> None:
    x = torch.cat([vectors(99, 3) * 0.1, torch.full((1, 3), 1e4)])
    assert geometric_median(x).norm() < 0.1 < x.mean(0).norm()


def test_the_geometric_median_beats_the_mean_in_summed_distance() -> None:
    x = vectors(50, 3) ** 3
    median = geometric_median(x, iterations=50)
    assert (x - median).norm(dim=1).sum() < (x - x.mean(0)).norm(dim=1).sum()
    assert ((x - median) / (x - median).norm(dim=1, keepdim=True)).sum(0).norm() < 0.05


def test_coefficients_rise_linearly() -> None:
    sae = build("standard", l1_coefficient=2.0, sparsity_warmup_steps=4)
    assert [coefficients(sae, step)["l1"] for step in (0, 1, 4, 9)] == [0, 0.5, 2, 2]
    assert coefficients(build("standard", l1_coefficient=2.0), 0) == {"l1": 2.0}
    assert coefficients(build("topk"), 0) == {}


def test_batches_are_full_and_cover_every_row_once_an_epoch() -> None:
    made = list(batches(10, 4, 5, torch.Generator().manual_seed(0)))
    assert [len(rows) for rows in made] == [4] * 5
    assert len(set(torch.cat(made[:2]).tolist())) == 8
    assert len(next(batches(3, 64, 1, torch.Generator().manual_seed(0)))) == 3


def _sync_on(rank: int, port: int, found: Any) -> None:
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    sae: Any = torch.nn.Module()  # what sync_ranks looks at; a whole BatchTopK SAE takes ten seconds to import
    sae.register_buffer("topk_threshold", torch.tensor(1.0 + rank))
    since = torch.tensor([3, 0, 5]) if rank else torch.tensor([4, 7, 2])
    sync_ranks(sae, since)
    found.put((since.tolist(), sae.topk_threshold.item()))
    torch.distributed.destroy_process_group()


@pytest.mark.ddp
def test_ranks_agree_on_dead_latents_and_thresholds() -> None:
    import socket

    import torch.multiprocessing as processes

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = processes.get_context("fork").SimpleQueue()
    processes.start_processes(_sync_on, (port, found), nprocs=2, start_method="fork")  # type: ignore[no-untyped-call]
    assert [found.get(), found.get()] == [([3, 0, 2], 1.5)] * 2


def test_fit_starts_from_the_median_and_learns() -> None:
    sae, x, seen = build_sae("topk", 6, 16, {}, seed=0), vectors(200) + 5, []
    options: dict[str, Any] = {"lr": 1e-2, "progress": lambda done, steps: seen.append((done, steps))}
    fit(sae, x, 1, 64, torch.Generator().manual_seed(0), lr=0.0)
    assert torch.equal(sae.b_dec, geometric_median(x))
    before = (sae(x) - x).square().mean()
    fit(sae, x, 50, 64, torch.Generator().manual_seed(0), done=1, **options)
    assert (sae(x) - x).square().mean() < 0.8 * before
    assert seen == [(step + 1, 50) for step in range(50)]


def test_fit_counts_the_steps_since_a_latent_fired() -> None:
    sae, x = build_sae("topk", 6, 16, {"k": 1}, seed=0), vectors(1).repeat(8, 1)
    since = torch.zeros(16, dtype=torch.long)
    fit(sae, x, 4, 8, torch.Generator(), lr=0.0, since_fired=since, done=1)
    fit(sae, x, 3, 8, torch.Generator(), lr=0.0, since_fired=since, done=5)
    assert sorted(since.tolist()) == [0] + [7] * 15


def test_the_sparsity_warmup_counts_all_steps_and_the_learning_rate_those_of_a_call() -> None:
    x, options = vectors(64), {"l1_coefficient": 5.0, "sparsity_warmup_steps": 10}

    def encoder(done: int, warmup_steps: int) -> torch.Tensor:
        sae = build_sae("standard", 6, 16, options, seed=0)
        fit(sae, x, 1, 64, torch.Generator().manual_seed(0), lr=1e-2, warmup_steps=warmup_steps, done=done)
        return sae.W_enc.detach()

    start = build_sae("standard", 6, 16, options, seed=0).W_enc
    assert torch.equal(encoder(10, 0), encoder(20, 0))
    assert not torch.equal(encoder(10, 0), encoder(1, 0))
    fast, slow = ((encoder(10, steps) - start).abs().max().item() for steps in (0, 100))
    assert slow == pytest.approx(fast / 100, rel=1e-2)
