"""Writers of what the policy wrote: a table of samples, files of rollouts, files of predictions."""

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
from lit_narrative.errors import check_least
from lit_narrative.files import csv_text, write_jsonl, write_table
from lit_narrative.views import ScoredRollouts

logger = logging.getLogger(__name__)


class SampleTable(RolloutCallback):
    """A few rollouts with their rewards as a table, for the loggers that show tables, and as ``samples/train.csv``.

    The file holds the latest table; the report shows it.

    Args:
        rows: completions of the table, from the first groups of the rollout batch.
        every_n_rollout_batches: how often.
        every_n_windows: former name of ``every_n_rollout_batches``, accepted for one release.
    """

    def __init__(self, rows: int = 8, every_n_rollout_batches: int = 10, *, every_n_windows: int | None = None) -> None:
        if every_n_windows is not None:
            logger.warning("SampleTable: every_n_windows is now every_n_rollout_batches")
            every_n_rollout_batches = every_n_windows
        check_least("callback SampleTable: rows", rows, 1)
        check_least("callback SampleTable: every_n_rollout_batches", every_n_rollout_batches, 1)
        self.rows, self.every_n_rollout_batches = rows, every_n_rollout_batches
        self._batches = 0

    def state_dict(self) -> dict[str, Any]:
        """How many rollout batches have gone by."""
        return {"windows": self._batches}  # the key of earlier checkpoints

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume the count."""
        self._batches = state_dict["windows"]

    def on_rollouts(self, trainer: Trainer, module: RolloutModule, scored: ScoredRollouts) -> None:
        """Write the table, and hand it to the loggers that show tables."""
        due = self._batches % self.every_n_rollout_batches == 0
        self._batches += 1
        if not due or not trainer.is_global_zero or dry_run(trainer):
            return
        rows = [{"step": trainer.global_step, **row} for row in rollout_rows(scored)[: self.rows]]
        columns, table = list(rows[0]), [list(row.values()) for row in rows]
        write_table(Path(trainer.default_root_dir, "samples", "train.csv"), columns, table)
        for target in trainer.loggers:
            # Lightning's loggers have no common method for tables or text: the two that can show one are asked by type.
            if isinstance(target, WandbLogger):
                target.log_table("samples/train", columns=columns, data=table, step=trainer.global_step)
            elif isinstance(target, TensorBoardLogger):
                target.experiment.add_text("samples/train", csv_text([columns, *table]), trainer.global_step)


class RolloutWriter(RolloutCallback):
    """Writes every rollout of a cycle to ``rollouts/cycle_<n>.jsonl``: prompt, messages, text, rewards, advantage."""

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a cycle's file."""
        # Lightning leaves this hook out for an epoch that it resumes in the middle, whose rows the checkpoint holds.
        self._rows = []

    def on_rollouts(self, trainer: Trainer, module: RolloutModule, scored: ScoredRollouts) -> None:
        """Keep the rows of a rollout batch, those of all processes."""
        rows = zip(rollout_rows(scored), scored.rollouts, strict=True)
        own = [{"window": scored.number, **row, **rollout.prompt_columns} for row, rollout in rows]
        self._rows += gather_lists(trainer, own)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the cycle's file."""
        if trainer.is_global_zero and not dry_run(trainer):
            path = Path(trainer.default_root_dir, "rollouts", f"cycle_{trainer.current_epoch:03d}.jsonl")
            write_jsonl(path, self._rows)

    def state_dict(self) -> dict[str, Any]:
        """The rows of the cycle in progress."""
        return {"rows": self._rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume the cycle in progress."""
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
                    **rollout.prompt_columns,
                    "text": rollout.text,
                    "finished": rollout.finished,
                    "logprob": float(rollout.logprobs.sum()),
                }
                for rollout in rollouts
            )
            write_jsonl(Path(trainer.default_root_dir, "samples", "predictions.jsonl"), rows)
