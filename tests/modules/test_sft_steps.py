"""Optimizer steps of fine-tuning: how they are cut into micro-batches, and how a run resumes between them."""

import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_narrative.datamodules.base import Split
from lit_narrative.errors import UserError
from lit_narrative.lm.vectors.inject import InjectionSettings, add_injector
from lit_narrative.modules.sft import SFTModule
from lit_narrative.views import Example
from tests.helpers import Recorder, TinyTask, sizes, tiny_lm, tokenizer, tokenizer_folder, trainer, weights
from tests.runs.processes import two_processes


class Uneven(TinyTask):
    """Examples whose completions have from two tokens to forty."""

    def examples(self, split: Split) -> list[Example]:
        return [Example(f"Write {n}", "ab c " * (1 + n * n % 13)) for n in range(self.rows)]


def learn(folder: Path, batch_size: int, accumulate: int, *callbacks: Callback, **options: Any) -> SFTModule:
    """An epoch of 20 rows and no more than that."""
    ckpt_path, workers = options.pop("ckpt_path", None), options.pop("num_workers", 0)
    given = {name: options.pop(name) for name in ("schedule", "optimizer", "packing") if name in options}
    seed_everything(0, verbose=False)
    module = SFTModule(sizes(), tokenizer_folder(folder.parent), lr=1e-2, **given)
    run = trainer(folder, *callbacks, **{"max_epochs": 1, "accumulate_grad_batches": accumulate, **options})
    run.fit(module, Uneven(rows=20, batch_size=batch_size, num_workers=workers), ckpt_path=ckpt_path)
    return module


def gradients(folder: Path, batch_size: int, accumulate: int, **options: Any) -> list[dict[str, torch.Tensor]]:
    seen = Recorder()
    learn(folder, batch_size, accumulate, seen, **options)
    return seen.gradients


@pytest.fixture(scope="module")
def at_once(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, torch.Tensor]]:
    """Gradients of the two steps of an epoch: one of sixteen rows, one of the last four."""
    return gradients(tmp_path_factory.mktemp("at_once") / "run", 16, 1)


def same(one: list[dict[str, torch.Tensor]], other: list[dict[str, torch.Tensor]], tolerance: float = 1e-6) -> bool:
    return len(one) == len(other) and all(
        torch.allclose(value, second[name], atol=tolerance, rtol=1e-4)
        for first, second in zip(one, other, strict=True)
        for name, value in first.items()
    )


@pytest.mark.parametrize(("batch_size", "accumulate"), [(8, 2), (4, 4), (1, 16)])
def test_a_step_does_not_depend_on_how_it_is_cut(
    batch_size: int, accumulate: int, at_once: list[dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    assert same(at_once, gradients(tmp_path / "run", batch_size, accumulate))


def test_packed_steps_are_the_same_steps_and_resume_exactly(
    at_once: list[dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    assert same(at_once, gradients(tmp_path / "whole", 16, 1, packing=64), 1e-5)
    saved = weights(learn(tmp_path / "run", 4, 1, SaveAt(2), packing=64))
    resumed = weights(learn(tmp_path / "resumed", 4, 1, ckpt_path=tmp_path / "run" / "within.ckpt", packing=64))
    assert all(torch.equal(value, resumed[name]) for name, value in saved.items())


def test_what_cannot_be_packed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.packing is 1; it must be 2 or more"):
        SFTModule(sizes(), tokenizer_folder(tmp_path), packing=1)
    vectors = InjectionSettings(marker="a", width=16, scale=1.0)
    lm, words = tiny_lm(), tokenizer()
    add_injector(lm, words, vectors)
    with pytest.raises(UserError, match=r"model\.packing: the model reads injected vectors"):
        SFTModule(sizes(), packing=64).set_model(lm, words)


def test_a_share_of_the_batches_ends_in_a_whole_step(at_once: list[dict[str, torch.Tensor]], tmp_path: Path) -> None:
    found = gradients(tmp_path / "run", 4, 4, limit_train_batches=4)
    assert same(at_once[:1], found)


def test_the_loss_that_is_logged_is_the_step_s(tmp_path: Path) -> None:
    class Logged(Callback):
        def __init__(self) -> None:
            self.losses: dict[int, float] = {}

        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            self.losses[trainer.global_step] = float(trainer.callback_metrics.get("loss", math.nan))

    found = []
    for batch_size, accumulate in ((16, 1), (4, 4)):
        logged = Logged()
        learn(tmp_path / "run", batch_size, accumulate, logged)
        found.append((logged.losses[1], logged.losses[2]))
    assert found[0] == pytest.approx(found[1], abs=1e-5)


# --- resuming ---------------------------------------------------------------------------------------------------------


class SaveAt(Callback):
    """Saves after a micro-batch of an epoch."""

    def __init__(self, batch_idx: int, epoch: int = 0) -> None:
        self.batch_idx, self.epoch = batch_idx, epoch

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.batch_idx and trainer.current_epoch == self.epoch:
            trainer.save_checkpoint(Path(trainer.default_root_dir, "within.ckpt"))


# Steps of four rows. Saved after three and a half steps, or after three; by batches of two rows, resumed by others. For
# a schedule that ends, the steps are counted before the checkpoint is read.
@pytest.mark.parametrize(("saved", "schedule"), [(6, "constant"), (5, "cosine")])
@pytest.mark.parametrize(("batch_size", "accumulate"), [(2, 2), (4, 1), (1, 4)])
def test_a_run_resumes_exactly_with_another_batch_size(
    saved: int, schedule: str, batch_size: int, accumulate: int, tmp_path: Path
) -> None:
    whole = weights(learn(tmp_path / "run", 2, 2, SaveAt(saved), schedule=schedule))
    seen = Recorder()
    options = {"ckpt_path": tmp_path / "run" / "within.ckpt", "schedule": schedule}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*not resumable.*")
        resumed = weights(learn(tmp_path / "resumed", batch_size, accumulate, seen, **options))
    assert sum(len(batch.ids) for batch in seen.batches) == 20 - 12
    for name, value in whole.items():
        torch.testing.assert_close(resumed[name], value, atol=1e-5, rtol=0)


@pytest.mark.parametrize("saved", [3, None], ids=["step", "epoch_end"])
@pytest.mark.parametrize(("batch_size", "accumulate", "steps"), [(4, 1, 5), (1, 4, 5), (4, 2, 3)])
def test_a_finished_epoch_is_finished_whatever_the_next_one_s_sizes(
    saved: int | None, batch_size: int, accumulate: int, steps: int, tmp_path: Path
) -> None:
    """Two steps of four rows, of five: the rest was left out, and is not learned by the run that goes on."""
    saver = SaveAt(saved) if saved else ModelCheckpoint(tmp_path, "within", save_top_k=0, save_last=True)
    learn(tmp_path / "run", 2, 2, saver, limit_train_batches=4, enable_checkpointing=True)
    seen = Recorder()
    path = tmp_path / "run" / "within.ckpt" if saved else tmp_path / "last.ckpt"
    learn(tmp_path / "resumed", batch_size, accumulate, seen, ckpt_path=path, max_epochs=2)
    assert (len(seen.gradients), sum(len(batch.ids) for batch in seen.batches)) == (steps, 20)


def test_both_parts_of_muon_resume_exactly(tmp_path: Path) -> None:
    options = {"optimizer": "muon", "schedule": "cosine"}
    whole = weights(learn(tmp_path / "run", 2, 2, SaveAt(5), **options))
    resumed = weights(learn(tmp_path / "resumed", 2, 2, ckpt_path=tmp_path / "run" / "within.ckpt", **options))
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_a_run_that_resumed_with_another_batch_size_is_saved_and_resumes_again(tmp_path: Path) -> None:
    whole = weights(learn(tmp_path / "run", 2, 2, SaveAt(3), max_epochs=2))
    learn(tmp_path / "second", 4, 1, SaveAt(3), ckpt_path=tmp_path / "run" / "within.ckpt", max_steps=4)
    options = {"ckpt_path": tmp_path / "second" / "within.ckpt", "max_epochs": 2}
    resumed = weights(learn(tmp_path / "third", 1, 4, **options))
    for name, value in whole.items():
        torch.testing.assert_close(resumed[name], value, atol=1e-5, rtol=0)


def test_workers_of_a_resumed_run_read_the_rest_of_a_later_epoch(tmp_path: Path) -> None:
    whole = weights(learn(tmp_path / "run", 2, 2, SaveAt(6, epoch=1), max_epochs=2))
    options = {"ckpt_path": tmp_path / "run" / "within.ckpt", "max_epochs": 2, "num_workers": 1}
    resumed = weights(learn(tmp_path / "resumed", 2, 2, **options))
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def on_each_of_two(folder: Path, expected: dict[str, torch.Tensor], gradient: list[dict[str, torch.Tensor]]) -> None:
    """The same steps of four rows on two processes: from the start, and from the checkpoint of one process."""
    assert same(gradient, gradients(folder / "both", 1, 2, devices=2, strategy="ddp"), 1e-5)
    resumed = weights(learn(folder / "both", 1, 2, ckpt_path=folder / "run" / "within.ckpt", devices=2, strategy="ddp"))
    for name, value in expected.items():
        torch.testing.assert_close(resumed[name], value, atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.ddp
def test_two_processes_make_the_steps_of_one_and_resume_its_run(tmp_path: Path) -> None:
    whole = weights(learn(tmp_path / "run", 4, 1, SaveAt(2)))
    two_processes(on_each_of_two, tmp_path, whole, gradients(tmp_path / "run2", 4, 1))
