"""SAEModule: training, checkpoints, metrics, and what a refresh needs."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import DataLoader

from lit_narrative.errors import UserError
from lit_narrative.modules.sae import SAEModule
from lit_narrative.sae import autoencoder as sparse
from lit_narrative.sae.training import geometric_median
from lit_narrative.views import Activation, State

D_IN, TRUE = 12, 20


def dictionary() -> np.ndarray:
    directions = np.random.default_rng(0).normal(size=(TRUE, D_IN))
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


def vectors(n: int, seed: int) -> np.ndarray:
    """Sums of two of twenty directions, moved off the origin."""
    rng = np.random.default_rng(seed)
    code = np.zeros((n, TRUE))
    for row in code:
        row[rng.choice(TRUE, 2, replace=False)] = rng.uniform(1, 2, 2)
    return (code @ dictionary() + 3).astype(np.float32)


class Data(LightningDataModule):
    """States of play, or bare vectors, collated by the module."""

    def __init__(self, bare: bool = False, shuffle: bool = True) -> None:
        super().__init__()
        self.bare, self.shuffle = bare, shuffle

    def loader(self, seed: int, shuffle: bool = False) -> DataLoader[Any]:
        rows = list(vectors(256, seed))
        made = rows if self.bare else [State(row, "0", (), {}) for row in rows]
        assert self.trainer is not None
        collate = self.trainer.lightning_module.collate
        generator = torch.Generator().manual_seed(0)
        return DataLoader(made, batch_size=64, shuffle=shuffle, collate_fn=collate, generator=generator)

    def train_dataloader(self) -> DataLoader[Any]:
        return self.loader(0, self.shuffle)

    def val_dataloader(self) -> DataLoader[Any]:
        return self.loader(1)

    def test_dataloader(self) -> DataLoader[Any]:
        return self.loader(2)


def trainer(folder: Path, **kwargs: Any) -> Trainer:
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    return Trainer(default_root_dir=folder, accelerator="cpu", **{**quiet, "enable_checkpointing": False, **kwargs})


@pytest.mark.parametrize("architecture", [one for one in sparse.ARCHITECTURES if one != "transcoder"])
def test_fit_learns_and_asks_the_data_for_its_length(architecture: sparse.Architecture, tmp_path: Path) -> None:
    module = SAEModule(architecture, d_sae=32, lr=1e-2, warmup_steps=2)
    untrained = SAEModule(architecture, d_sae=32, d_in=D_IN).measure(torch.from_numpy(vectors(256, 2)))
    runner = trainer(tmp_path, max_epochs=6)
    runner.fit(module, datamodule=Data())
    (result,) = runner.test(module, datamodule=Data(), verbose=False)
    assert module.sae.cfg.d_in == D_IN
    assert result["test/mse"] < 0.5 * untrained["mse"]
    assert set(result) == {f"test/{name}" for name in ("mse", "explained_variance", "l0", "dead_fraction")}
    assert set(runner.callback_metrics) >= {"test/mse"}


class Pairs(Data):
    """Activations with what stands at another place: half of the numbers, doubled and turned about."""

    def rows(self, seed: int) -> list[Activation]:
        return [Activation(row, n, 0, 2 * row[5::-1]) for n, row in enumerate(vectors(256, seed))]

    def loader(self, seed: int, shuffle: bool = False) -> DataLoader[Any]:
        return DataLoader(self.rows(seed), batch_size=64, shuffle=shuffle, collate_fn=SAEModule.collate)  # type: ignore[arg-type]


def test_a_transcoder_learns_to_predict_other_vectors(tmp_path: Path) -> None:
    module = SAEModule("transcoder", d_sae=32, l1_coefficient=0.01, lr=1e-2, view="activations")
    runner = trainer(tmp_path, max_epochs=80, limit_val_batches=0)
    runner.fit(module, datamodule=Pairs())
    assert (module.sae.cfg.d_in, module.sae.cfg.d_out) == (D_IN, 6)
    (result,) = runner.test(module, datamodule=Pairs(), verbose=False)
    assert result["test/explained_variance"] > 0.5
    runner.save_checkpoint(tmp_path / "last.ckpt")
    loaded = SAEModule.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    x = SAEModule.collate(list(Pairs().rows(3)))
    assert loaded.measure(x) == module.measure(x)
    latents, rebuilt = module.encoder()(x[:, :D_IN].numpy())
    assert (latents.shape, rebuilt.shape) == ((256, 32), (256, 6))
    module.save(tmp_path / "sae")
    from sae_lens import SAE

    assert torch.allclose(SAE.load_from_disk(tmp_path / "sae")(x[:, :D_IN]), torch.from_numpy(rebuilt), atol=1e-5)


def test_a_transcoder_needs_vectors_to_predict_and_nothing_else_takes_them(tmp_path: Path) -> None:
    for module, data in ((SAEModule("transcoder"), Data()), (SAEModule("topk", view="activations"), Pairs())):
        with pytest.raises(UserError, match=r"data\.activations\.target_hook"):
            trainer(tmp_path, max_steps=1, limit_val_batches=0).fit(module, datamodule=data)


def test_the_latents_of_a_nested_autoencoder_are_matched_within_their_levels() -> None:
    module = SAEModule("matryoshka_batchtopk", d_sae=16, d_in=D_IN, matryoshka_widths=(4, 8))
    old = module.decoder()[np.r_[8:16, :8]]  # every feature has moved to another level
    matched = module.align(old).permutation
    for level in (slice(0, 4), slice(4, 8), slice(8, 16)):
        assert sorted(matched[level]) == list(range(16))[level]


def test_the_activations_view_takes_bare_vectors(tmp_path: Path) -> None:
    module = SAEModule(d_sae=16, view="activations")
    trainer(tmp_path, max_steps=1, limit_val_batches=0).fit(module, datamodule=Data(bare=True))
    assert module.view == "activations"
    assert int(module.steps) == 1


def test_without_data_to_ask_the_length_must_be_given(tmp_path: Path) -> None:
    loader: DataLoader[Any] = DataLoader(vectors(8, 0), batch_size=8)
    with pytest.raises(UserError, match=r"set model\.d_in"):
        trainer(tmp_path, max_steps=1).fit(SAEModule(), loader)


def test_a_wrong_option_is_refused_before_any_data_is_seen() -> None:
    with pytest.raises(UserError, match="'gated' takes no k"):
        SAEModule("gated", k=4)


def test_a_checkpoint_loads_alone_with_weights_only(tmp_path: Path) -> None:
    module = SAEModule("batchtopk", d_sae=16, k=3)
    runner = trainer(tmp_path, max_steps=3, limit_val_batches=0)
    runner.fit(module, datamodule=Data())
    runner.save_checkpoint(tmp_path / "last.ckpt")
    loaded = SAEModule.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    assert loaded.hparams["d_in"] is None
    x = torch.from_numpy(vectors(20, 5))
    assert loaded.measure(x) == module.measure(x)
    assert int(loaded.steps) == 3
    assert torch.equal(loaded.since_fired, module.since_fired)


def test_a_resumed_run_ends_like_an_unbroken_one(tmp_path: Path) -> None:
    def run(epochs: int, resume: Path | None = None) -> tuple[SAEModule, Trainer]:
        module = SAEModule("standard", d_sae=16, l1_coefficient=0.5, sparsity_warmup_steps=6)
        runner = trainer(tmp_path, max_epochs=epochs)
        runner.fit(module, datamodule=Data(shuffle=False), ckpt_path=resume)
        return module, runner

    run(1)[1].save_checkpoint(tmp_path / "first.ckpt")
    whole, resumed = run(2)[0].state_dict(), run(2, tmp_path / "first.ckpt")[0].state_dict()
    assert int(whole["steps"]) == 8
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_training_starts_from_the_median(tmp_path: Path) -> None:
    x = torch.from_numpy(vectors(64, 0))
    still = {"lr": 0.0, "d_sae": 16, "d_in": D_IN}
    by_trainer, by_hand = SAEModule(**still), SAEModule(**still)
    trainer(tmp_path, max_steps=1, limit_val_batches=0).fit(by_trainer, datamodule=Data(shuffle=False))
    by_hand.train_on(x, 1, 8, torch.Generator().manual_seed(0))
    assert torch.allclose(by_trainer.sae.b_dec, geometric_median(torch.from_numpy(vectors(256, 0)[:64])))
    assert torch.allclose(by_hand.sae.b_dec, geometric_median(x))


def test_each_step_starts_with_unit_decoder_rows() -> None:
    module, x = SAEModule(d_sae=16, d_in=D_IN), torch.from_numpy(vectors(64, 0))
    module.train_on(x, 5, 64, torch.Generator().manual_seed(0))
    assert not torch.allclose(module.sae.W_dec.norm(dim=1), torch.ones(16), atol=1e-5)
    module.step(x)
    assert torch.allclose(module.sae.W_dec.norm(dim=1), torch.ones(16), atol=1e-5)
    assert np.allclose(np.linalg.norm(module.decoder(), axis=1), 1, atol=1e-5)


def test_a_step_reports_what_it_measured() -> None:
    module, x = SAEModule(d_sae=16, d_in=D_IN, k=3), torch.from_numpy(vectors(64, 0))
    made = module.step(x)
    assert made.loss.requires_grad
    assert made.metrics["l0"] == 3
    assert made.metrics["mse"] * D_IN == pytest.approx(made.loss.item(), rel=1e-5)
    assert made.metrics["dead_fraction"] == 0
    assert "auxiliary_reconstruction_loss" in made.metrics


def test_latents_that_do_not_fire_count_as_dead_after_the_window() -> None:
    module, x = SAEModule(d_sae=16, d_in=D_IN, k=1, dead_window=3), torch.from_numpy(vectors(1, 0)).repeat(8, 1)
    shares = [module.step(x).metrics["dead_fraction"].item() for _ in range(6)]
    assert shares == [0, 0, 0, 0, pytest.approx(15 / 16), pytest.approx(15 / 16)]
    assert module.step(x).metrics["auxiliary_reconstruction_loss"] > 0


def test_a_planted_dictionary_is_recovered() -> None:
    module = SAEModule("topk", d_sae=40, d_in=D_IN, k=2, lr=1e-2)
    module.train_on(torch.from_numpy(vectors(4000, 0)), 600, 128, torch.Generator().manual_seed(0))
    best = (dictionary() @ module.decoder().T).max(1)
    assert best.mean() > 0.95
    assert module.measure(torch.from_numpy(vectors(500, 9)))["explained_variance"] > 0.85


def test_training_depends_on_nothing_but_its_generator() -> None:
    x = torch.from_numpy(vectors(200, 0))

    def train(seed: int) -> torch.Tensor:
        module = SAEModule(d_sae=16, d_in=D_IN)
        torch.rand(seed + 1)
        module.train_on(x, 10, 32, torch.Generator().manual_seed(seed))
        return module.sae.W_enc.detach()

    assert torch.equal(train(0), train(0))
    assert not torch.equal(train(0), train(1))


def test_an_encoder_is_a_snapshot() -> None:
    module, x = SAEModule(d_sae=16, d_in=D_IN, k=3), vectors(64, 0)
    encode = module.encoder()
    latents, rebuilt = encode(x)
    assert latents.shape == (64, 16)
    assert rebuilt.shape == (64, D_IN)
    assert ((latents != 0).sum(1) <= 3).all()
    module.train_on(torch.from_numpy(x), 5, 64, torch.Generator().manual_seed(0))
    assert np.array_equal(encode(x)[0], latents)
    assert not np.array_equal(module.encoder()(x)[0], latents)


def test_aligning_gives_features_their_old_index() -> None:
    module, x = SAEModule(d_sae=16, d_in=D_IN), torch.from_numpy(vectors(200, 0))
    module.train_on(x, 50, 64, torch.Generator().manual_seed(0))
    module.since_fired.copy_(torch.arange(16))
    before, order = module.decoder(), torch.randperm(16, generator=torch.Generator().manual_seed(1))
    sparse.permute_latents(module.sae, order)
    module.since_fired.copy_(module.since_fired[order])
    matching = module.align(before)
    assert matching.mean_cosine == pytest.approx(1)
    assert np.allclose(module.decoder(), before)
    assert module.since_fired.tolist() == list(range(16))


def test_a_saved_folder_encodes_like_the_module(tmp_path: Path) -> None:
    from sae_lens import SAE

    module, x = SAEModule("batchtopk", d_sae=16, d_in=D_IN, k=3), vectors(200, 0)
    module.train_on(torch.from_numpy(x), 100, 64, torch.Generator().manual_seed(0))
    module.save(tmp_path / "sae")
    loaded = SAE.load_from_disk(tmp_path / "sae")
    assert np.allclose(loaded.encode(torch.from_numpy(x)).detach().numpy(), module.encoder()(x)[0], atol=1e-5)


@pytest.mark.slow
def test_a_loader_reads_for_it_in_processes_that_are_spawned() -> None:
    rows = [State(row, "0", (), {}) for row in vectors(4, 0)]
    module = SAEModule(d_in=D_IN, d_sae=16)
    loader = DataLoader(rows, batch_size=4, collate_fn=module.collate, num_workers=1, multiprocessing_context="spawn")  # type: ignore[arg-type]
    (batch,) = loader
    assert torch.equal(batch, module.collate(rows))


def test_what_a_loader_needs_of_it_can_be_sent_to_another_process() -> None:
    collate = pickle.loads(pickle.dumps(SAEModule(d_in=D_IN, d_sae=16).collate))
    assert collate([State(np.ones(D_IN), "0", (), {})]).shape == (1, D_IN)
