"""A run that dies anywhere, or is told to end, goes on as if nothing had happened; a checkpoint is whole or absent."""

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_narrative.interrupts import Interrupted, listening
from lit_narrative.lm.load import ScratchModel
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.modules.sft import SFTModule
from lit_narrative.resume import RESUME, WholeFiles
from tests.helpers import TinyTask, grpo, tokenizer_folder, trainer, weights
from tests.kills import HOOKS, SETTINGS, differences, files, fit, rows


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("settings") / "run.yaml"
    path.write_text(SETTINGS)
    return path


@pytest.fixture(scope="module")
def whole(settings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    assert fit(settings, folder) == 0
    return folder


def test_the_unbroken_run_left_what_the_others_are_compared_by(whole: Path) -> None:
    assert [row["step"] for row in rows(whole) if "reward" in row] == [str(step) for step in range(8)]
    pages = [(whole / "diary" / f"{epoch}.txt").read_text().splitlines() for epoch in (0, 1)]
    assert pages == [
        ["start of 0 at 0", "validated at 4", "end at 4"],
        ["start of 1 at 4", "validated at 8", "end at 8"],
    ]
    assert {"diary/0.txt", "rollouts/cycle_001.jsonl"} <= files(whole).keys()


# An epoch has four steps. Within one; after its last step and before what belongs to its end; at the start of the next;
# after the last step of all.
@pytest.mark.parametrize(
    ("hook", "step"),
    [
        ("on_before_optimizer_step", 2),
        pytest.param("on_validation_start", 4, marks=pytest.mark.slow),
        ("on_train_epoch_start", 4),
        pytest.param("on_train_end", 8, marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_leaves_nothing_out_and_does_nothing_twice(
    settings: Path, whole: Path, tmp_path: Path, hook: str, step: int
) -> None:
    assert fit(settings, tmp_path, kill=(hook, step)) == -signal.SIGKILL
    assert fit(settings, tmp_path) == 0
    assert differences(whole, tmp_path) == []


@pytest.mark.parametrize("hook", ["on_train_epoch_end", pytest.param("on_train_epoch_start", marks=pytest.mark.slow)])
def test_a_run_that_is_measured_in_steps_begins_its_next_epoch(
    settings: Path, whole: Path, tmp_path: Path, hook: str
) -> None:
    assert fit(settings, tmp_path, "--trainer.max_steps=8", kill=(hook, 4)) == -signal.SIGKILL
    assert fit(settings, tmp_path, "--trainer.max_steps=8") == 0
    assert differences(whole, tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("change", ["max_epochs=2", "max_steps=8", "val_check_interval=4", "limit_val_batches=0"])
def test_a_run_may_die_in_every_hook_of_every_step(settings: Path, tmp_path: Path, change: str) -> None:
    changes = [f"--trainer.{change}"]
    assert fit(settings, tmp_path / "whole", *changes) == 0
    killed = 0
    for step in range(9):
        for hook in HOOKS:
            folder = tmp_path / f"{hook}_{step}"
            if fit(settings, folder, *changes, kill=(hook, step)) == -signal.SIGKILL:
                killed += 1
                assert fit(settings, folder, *changes) == 0
            assert differences(tmp_path / "whole", folder) == [], (hook, step)
    assert killed > 20


# --- signals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hook", "step", "number"),
    [
        ("on_before_optimizer_step", 2, signal.SIGTERM),  # in a step, which is finished
        # Before the first rollouts, which are not begun; a validation, which is left.
        pytest.param("on_train_epoch_start", 0, signal.SIGINT, marks=pytest.mark.slow),
        pytest.param("on_validation_start", 4, signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
def test_a_signal_saves_the_step_reached_and_says_so_in_the_exit_code(
    whole: Path, tmp_path: Path, hook: str, step: int, number: int
) -> None:
    config = tmp_path / "rare.yaml"
    config.write_text(SETTINGS.replace(", every_n_train_steps: 1", ""))  # nothing else saves within an epoch
    assert fit(config, tmp_path / "run", kill=(hook, step), number=number) == 128 + number
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == step + (hook == "on_before_optimizer_step")
    assert fit(config, tmp_path / "run") == 0
    assert differences(whole, tmp_path / "run") == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_may_come_in_every_hook_of_every_step(
    settings: Path, whole: Path, tmp_path: Path, number: int
) -> None:
    for step in range(9):
        for hook in HOOKS:
            folder = tmp_path / f"{hook}_{step}"
            if fit(settings, folder, kill=(hook, step), number=number):
                assert fit(settings, folder) == 0
            assert differences(whole, folder) == [], (hook, step)


# --- saving -----------------------------------------------------------------------------------------------------------


def test_every_epoch_saves_whether_it_is_validated_or_not(settings: Path, tmp_path: Path) -> None:
    config = tmp_path / "rare.yaml"
    config.write_text(SETTINGS.replace(", every_n_train_steps: 1", ""))
    rarely = "--trainer.check_val_every_n_epoch=10"
    assert fit(config, tmp_path / "run", rarely, kill=("on_train_batch_start", 5)) == -signal.SIGKILL
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4
    assert fit(config, tmp_path / "run", rarely) == 0
    assert (tmp_path / "run" / "diary" / "1.txt").read_text().splitlines() == ["start of 1 at 4", "end at 8"]


@pytest.mark.parametrize(
    ("savers", "options", "message"),
    [
        ([], {}, "saves no checkpoint"),
        ([{"save_top_k": 0}], {}, "saves no checkpoint"),
        ([{"save_top_k": 1}], {"check_val_every_n_epoch": 10}, "when validation ends, every 10 epochs"),
        ([{"save_last": True}], {"check_val_every_n_epoch": 10}, None),
        ([{"every_n_train_steps": 1}], {"check_val_every_n_epoch": 10}, None),
    ],
)
def test_a_run_that_would_lose_everything_is_told_at_its_start(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    savers: list[dict[str, Any]],
    options: dict[str, int],
    message: str | None,
) -> None:
    callbacks = [ModelCheckpoint(tmp_path / "checkpoints", **saver) for saver in savers]
    run = trainer(tmp_path, *callbacks, enable_checkpointing=bool(savers), max_steps=1, **options)
    run.fit(grpo(tmp_path, num_generations=2, sampling=SamplingParams(4)), TinyTask(rows=4))
    told = [text for text in caplog.messages if "checkpoint" in text]
    assert (not told) if message is None else (len(told) == 1 and message in told[0])


def test_a_checkpoint_from_before_it_told_where_it_was_saved(settings: Path, whole: Path, tmp_path: Path) -> None:
    assert fit(settings, tmp_path, kill=("on_validation_start", 4)) == -signal.SIGKILL
    last = tmp_path / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(last, weights_only=True)
    assert checkpoint.pop(RESUME)["point"] == "step"
    torch.save(checkpoint, last)
    assert fit(settings, tmp_path) == 0
    assert [line for line in differences(whole, tmp_path) if not line.startswith("metrics")] == []


class Scheduled(SFTModule):
    """The learning rate falls with every epoch, and again when the loss has not become far better."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.lm.parameters(), 0.1)
        by_epoch = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
        by_loss = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.5)
        return [optimizer], [by_epoch, {"scheduler": by_loss, "monitor": "val/loss", "strict": False}]


class SignalAt(Callback):
    """Asks its own process to end in a hook, once a number of optimizer steps is done."""

    def __init__(self, hook: str, step: int) -> None:
        self.step = step
        setattr(self, hook, self.send)

    def send(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def with_dropout(folder: Path, *callbacks: Callback, ckpt_path: Path | None = None) -> None:
    """Three epochs of two steps; the best of every third step are kept by a loss that is measured twice an epoch."""
    seed_everything(0, verbose=False)
    model = ScratchModel("gpt2", hidden_size=16, layers=1, heads=2, positions=64, dropout=0.5)
    module = Scheduled(model, tokenizer_folder(folder.parent))
    saver = ModelCheckpoint(
        folder, monitor="val/loss", save_top_k=2, save_last=True, every_n_train_steps=3, filename="{step}"
    )
    options = {"limit_val_batches": 1, "val_check_interval": 0.5, "max_epochs": 3, "accumulate_grad_batches": 2}
    run = trainer(folder, saver, *callbacks, enable_checkpointing=True, **options)
    run.fit(module, TinyTask(rows=4, batch_size=1), ckpt_path=ckpt_path)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    with_dropout(folder)
    return folder


# In a step; at the end of an epoch, whose learning rate then falls; in the validation of one.
@pytest.mark.parametrize(
    ("hook", "step"),
    [("on_train_batch_start", 2), ("on_before_optimizer_step", 3), ("on_validation_epoch_end", 2)],
)
def test_dropout_schedules_and_the_best_checkpoints_go_on_where_they_were(
    undisturbed: Path, tmp_path: Path, hook: str, step: int
) -> None:
    folder = tmp_path / "run"
    with listening(), pytest.raises(Interrupted):
        with_dropout(folder, SignalAt(hook, step))
    with_dropout(folder, ckpt_path=folder / "last.ckpt")
    assert {path.name for path in folder.glob("*.ckpt")} == {path.name for path in undisturbed.glob("*.ckpt")}
    one, other = (torch.load(path / "last.ckpt", weights_only=True) for path in (undisturbed, folder))
    assert one["lr_schedulers"] == other["lr_schedulers"]
    assert all(torch.equal(value, other["state_dict"][name]) for name, value in one["state_dict"].items())


class SaveAt(Callback):
    """Saves after a micro-batch."""

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 4 and trainer.ckpt_path is None:
            trainer.save_checkpoint(Path(trainer.default_root_dir, "within.ckpt"))


def test_rollouts_are_counted_once_where_a_checkpoint_was_saved_within_their_first_step(tmp_path: Path) -> None:
    def learn(ckpt_path: Path | None = None) -> tuple[float, dict[str, torch.Tensor]]:
        seed_everything(0, verbose=False)
        module = grpo(tmp_path, num_generations=4, micro_batch_size=4, sampling=SamplingParams(8))
        run = trainer(tmp_path, SaveAt(), max_epochs=1, accumulate_grad_batches=2)
        run.fit(module, TinyTask(rows=8), ckpt_path=ckpt_path)  # two rollout batches of four micro-batches
        return float(run.callback_metrics["num_tokens"]), weights(module)

    (tokens, whole), (again, resumed) = learn(), learn(tmp_path / "within.ckpt")
    assert tokens == again
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def save_over_and_over(path: Path, elsewhere: Path) -> None:
    os.environ["TMPDIR"] = str(elsewhere)
    for number in range(10_000):
        WholeFiles().save_checkpoint({"number": number, "weights": torch.full((2_000_000,), float(number))}, path)


def test_a_kill_while_a_checkpoint_is_saved_leaves_the_one_before(tmp_path: Path) -> None:
    path, elsewhere = tmp_path / "last.ckpt", Path("/dev/shm")  # another file system, as TMPDIR often is
    before, numbers, rng = set(elsewhere.iterdir()), [], random.Random(0)
    for _ in range(5):
        process = multiprocessing.get_context("fork").Process(target=save_over_and_over, args=(path, elsewhere))
        process.start()
        while not path.exists():
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 0.1))
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        checkpoint = torch.load(path, weights_only=True)
        assert (checkpoint["weights"] == checkpoint["number"]).all()
        numbers.append(checkpoint["number"])
    assert set(elsewhere.iterdir()) == before
    WholeFiles().save_checkpoint({"number": -1}, path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.ckpt"]  # what the killed ones left is gone


def test_a_disk_that_fills_while_a_checkpoint_is_saved_keeps_the_one_before(small_disk: Path) -> None:
    path = small_disk / "last.ckpt"
    WholeFiles().save_checkpoint({"number": 1}, path)
    with pytest.raises(OSError, match="No space left"):
        WholeFiles().save_checkpoint({"weights": torch.zeros(4_000_000)}, path)
    assert torch.load(path, weights_only=True) == {"number": 1}
    assert [entry.name for entry in small_disk.iterdir() if entry.is_file()] == ["last.ckpt"]


def test_a_fit_whose_disk_fills_ends_with_one_line_and_a_checkpoint_to_resume_from(
    small_disk: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "wide.yaml"
    config.write_text(SETTINGS.replace("hidden_size: 16", "hidden_size: 96"))  # two checkpoints are more than the disk
    assert fit(config, small_disk / "run") == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "checkpoints/last.ckpt" in line and "No space left on device" in line
    assert 0 < torch.load(small_disk / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] < 8
    assert [path.name for path in (small_disk / "run" / "checkpoints").iterdir()] == ["last.ckpt"]
