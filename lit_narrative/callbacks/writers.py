"""Callbacks on what the policy writes while it learns: sample tables, files of rollouts, a guard against collapse."""

import csv
import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

from lit_narrative.callbacks.base import RolloutCallback, RolloutModule, dry_run
from lit_narrative.distributed import gather_lists
from lit_narrative.errors import UserError
from lit_narrative.files import write_jsonl, write_text
from lit_narrative.views import ScoredRollouts

logger = logging.getLogger(__name__)


class SampleTable(RolloutCallback):
    """A few rollouts with their rewards as a table, for the loggers that show tables, and as ``samples/train.csv``.

    The file holds the latest table; the report shows it.

    Args:
        rows: completions of the table, from the first groups of the window.
        every_n_windows: how often.
    """

    def __init__(self, rows: int = 8, every_n_windows: int = 10) -> None:
        if rows < 1 or every_n_windows < 1:
            raise UserError(
                f"callback SampleTable: rows={rows} and every_n_windows={every_n_windows} must be at least 1"
            )
        self.rows, self.every_n_windows = rows, every_n_windows
        self._windows = 0

    def state_dict(self) -> dict[str, Any]:
        """How many windows have gone by."""
        return {"windows": self._windows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self._windows = state_dict["windows"]

    def on_rollouts(self, trainer: Trainer, module: RolloutModule, scored: ScoredRollouts) -> None:
        """Show the table."""
        due = self._windows % self.every_n_windows == 0
        self._windows += 1
        if not due or not trainer.is_global_zero or dry_run(trainer):
            return
        rows = [{"step": trainer.global_step, **row} for row in rollout_rows(scored)[: self.rows]]
        columns, table = list(rows[0]), [list(row.values()) for row in rows]
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([columns, *table])
        write_text(Path(trainer.default_root_dir, "samples", "train.csv"), text.getvalue())
        for target in trainer.loggers:
            if isinstance(target, WandbLogger):
                target.log_table("samples/train", columns=columns, data=table, step=trainer.global_step)
            elif isinstance(target, TensorBoardLogger):
                target.experiment.add_text("samples/train", text.getvalue(), trainer.global_step)


class RolloutWriter(RolloutCallback):
    """Writes every rollout of a cycle to ``rollouts/cycle_<n>.jsonl``: prompt, text, rewards, advantage."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a cycle's file."""
        self._rows: list[dict[str, Any]] = []

    def on_rollouts(self, trainer: Trainer, module: RolloutModule, scored: ScoredRollouts) -> None:
        """Keep a window's rows, those of all processes."""
        self._rows += gather_lists(trainer, [{"window": scored.number, **row} for row in rollout_rows(scored)])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the cycle's file."""
        if trainer.is_global_zero and not dry_run(trainer):
            path = Path(trainer.default_root_dir, "rollouts", f"cycle_{trainer.current_epoch:03d}.jsonl")
            write_jsonl(path, self._rows)

    def state_dict(self) -> dict[str, Any]:
        """The rows of the cycle in progress."""
        return {"rows": getattr(self, "_rows", [])}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the cycle in progress."""
        self._rows = state_dict["rows"]


def rollout_rows(scored: ScoredRollouts) -> list[dict[str, Any]]:
    """Scored rollouts as plain rows."""
    return [
        {
            "prompt": rollout.prompt,
            "text": rollout.text,
            "reward": _number(scored.totals[i]),
            **{f"rewards/{name}": _number(values[i]) for name, values in scored.rewards.items()},
            "advantage": _number(scored.advantages[i]),
            "finished": rollout.finished,
        }
        for i, rollout in enumerate(scored.rollouts)
    ]


def _number(value: torch.Tensor) -> float | None:
    return None if value.isnan() else float(value)


class PredictionWriter(BasePredictionWriter):
    """Writes ``samples/predictions.jsonl``: prompt, text, whether the model ended it, its log-probability."""

    def __init__(self) -> None:
        super().__init__(write_interval="epoch")

    def write_on_epoch_end(
        self, trainer: Trainer, pl_module: LightningModule, predictions: Sequence[Any], batch_indices: Sequence[Any]
    ) -> None:
        """Write the completions of all processes in one file."""
        rollouts = gather_lists(trainer, [rollout for batch in predictions for rollout in batch])
        if trainer.is_global_zero and not dry_run(trainer):
            rows = (
                {
                    "prompt": rollout.prompt,
                    "text": rollout.text,
                    "finished": rollout.finished,
                    "logprob": float(rollout.logprobs.sum()),
                }
                for rollout in rollouts
            )
            write_jsonl(Path(trainer.default_root_dir, "samples", "predictions.jsonl"), rows)
