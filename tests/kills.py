"""Runs that are killed at a point of their choice, and what a run folder holds, for comparison."""

import multiprocessing
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from lit_narrative.cli.main import main
from lit_narrative.files import read_table, write_text
from tests.helpers import TEXTS, TinyTask

HOOKS = (
    "on_train_epoch_start",
    "on_train_batch_start",
    "on_before_optimizer_step",
    "on_validation_start",
    "on_validation_epoch_end",
    "on_validation_end",
    "on_train_epoch_end",
    "on_train_end",
)
"""Where a run dies: in steps, and between a step and what belongs to it."""

SETTINGS = """
seed_everything: 0
trainer:
  accelerator: cpu
  max_epochs: 2
  accumulate_grad_batches: 2
  num_sanity_val_steps: 0
  log_every_n_steps: 1
  limit_val_batches: 1
  gradient_clip_val: 1.0
  enable_progress_bar: false
  enable_model_summary: false
  callbacks:
    - class_path: tests.kills.Diary
    - class_path: RolloutWriter
    - class_path: CollapseMonitor
    - class_path: LearningRateMonitor
    - class_path: ModelCheckpoint
      init_args: {save_last: true, save_top_k: 0, every_n_train_steps: 1}
model:
  class_path: GRPOModule
  init_args:
    model: {hidden_size: 16, layers: 1, heads: 2, positions: 64}
    tokenizer: {vocab_size: 300}
    rewards: {low: 1.0}
    num_generations: 4
    micro_batch_size: 4
    sampling: {max_new_tokens: 8}
data:
  class_path: tests.kills.FewPrompts
"""
"""Two epochs of four optimizer steps, each on half of a rollout batch; a checkpoint after every step."""

CLOCKS = ("step_time", "rewards_time", "cycle/refresh_share", "cycle/seconds", "time/")
"""Columns of ``metrics.csv`` that say how long something took."""


class KillAt(Callback):
    """Ends its own process in a hook once a number of optimizer steps is done.

    Args:
        hook: name of the hook.
        step: optimizer steps.
        number: of the signal; 9, SIGKILL, leaves no chance to clean up.
    """

    def __init__(self, hook: str, step: int, number: int = 9) -> None:
        self.step, self.number = step, number
        setattr(self, hook, self.kill)

    def kill(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """Send the signal."""
        if trainer.global_step == self.step:
            os.kill(os.getpid(), self.number)


def fit(settings: Path, folder: Path, *changes: str, kill: tuple[str, int] | None = None, number: int = 9) -> int:
    """The exit code of ``lit-narrative fit`` in a process of its own.

    Args:
        settings: the configuration.
        folder: the run folder; the run resumes from its ``last.ckpt`` where there is one.
        changes: further arguments.
        kill: hook and optimizer steps at which it dies.
        number: of the signal.
    """
    args = arguments(settings, folder, *changes)
    if kill is not None:
        values = {"hook": kill[0], "step": kill[1], "number": number}
        args.append("--trainer.callbacks+=tests.kills.KillAt")
        args += [f"--trainer.callbacks.{name}={value}" for name, value in values.items()]
    return in_a_process(partial(main, args))


def arguments(settings: Path, folder: Path, *changes: str) -> list[str]:
    """The command line of a fit, which resumes where it can."""
    last = folder / "checkpoints" / "last.ckpt"
    args = ["fit", f"--config={settings}", f"--trainer.default_root_dir={folder}", *changes]
    return [*args, f"--ckpt_path={last}"] if last.exists() else args


def in_a_process(run: Callable[[], Any]) -> int:
    """The exit code of ``run`` in a process of its own."""
    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join(300)
    assert process.exitcode is not None
    return process.exitcode


def rows(folder: Path) -> list[dict[str, str]]:
    """The rows of ``metrics.csv`` without what depends on the clock and without empty cells."""
    table = read_table(folder / "metrics.csv")
    return [{name: cell for name, cell in row.items() if not name.startswith(CLOCKS)} for row in table]


def files(folder: Path) -> dict[str, bytes]:
    """The content of every file but checkpoints, the metrics and the settings."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.suffix != ".ckpt"
        and path.name not in ("metrics.csv", "config.yaml", "job.json", "log.txt")
    }


def state(folder: Path) -> dict[str, Any]:
    """Weights and optimizer of the last checkpoint, flat."""
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    moments = checkpoint["optimizer_states"][0]["state"]
    return checkpoint["state_dict"] | {
        f"{n}.{name}": value for n, row in moments.items() for name, value in row.items()
    }


def differences(whole: Path, resumed: Path) -> list[str]:
    """What is not the same in two run folders."""
    wrong = []
    ours, theirs = state(whole), state(resumed)
    if ours.keys() != theirs.keys() or any(not torch.equal(value, theirs[name]) for name, value in ours.items()):
        wrong.append("weights or optimizer")
    ours, theirs = rows(whole), rows(resumed)
    if ours != theirs:
        odd = next((n for n, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
        names = [] if odd is None else [k for k in ours[odd] | theirs[odd] if ours[odd].get(k) != theirs[odd].get(k)]
        wrong.append(f"metrics: {len(ours)} and {len(theirs)} rows, row {odd}: {names[:4]}")
    ours, theirs = files(whole), files(resumed)
    wrong += [f"file {name}" for name in sorted(ours.keys() | theirs.keys()) if ours.get(name) != theirs.get(name)]
    return wrong


class Diary(Callback):
    """A page for each epoch: its start, its validations, its end; each is to stand there once."""

    def __init__(self) -> None:
        self.entries: list[str] = []

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        self.entries = [f"start of {trainer.current_epoch} at {trainer.global_step}"]

    def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
        self.entries.append(f"validated at {trainer.global_step}")

    def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        page = "\n".join([*self.entries, f"end at {trainer.global_step}"])
        write_text(Path(trainer.default_root_dir, "diary", f"{trainer.current_epoch}.txt"), page)

    def state_dict(self) -> dict[str, Any]:
        return {"entries": self.entries}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.entries = state_dict["entries"]


class FewPrompts(TinyTask):
    """A task as YAML can name it: eight prompts, two rollout batches an epoch."""

    def __init__(self, batch_size: int = 4) -> None:
        super().__init__(rows=8, batch_size=batch_size)

    def tokenizer_texts(self) -> list[str]:
        return TEXTS
