"""Callbacks on what the policy writes while it learns: sample tables, files of rollouts, a guard against collapse."""

import csv
import io
import logging
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

from lit_narrative.callbacks.processes import dry_run, gather_lists
from lit_narrative.errors import UserError
from lit_narrative.files import write_jsonl, write_text
from lit_narrative.modules.grpo import GRPOModule
from lit_narrative.rl.rollout import ScoredRollouts

logger = logging.getLogger(__name__)


class RolloutCallback(Callback):
    """Sees every window of scored rollouts once; subclasses define :meth:`on_rollouts`."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a module that samples no rollouts."""
        if stage == "fit" and not isinstance(pl_module, GRPOModule):
            raise UserError(
                f"callback {type(self).__name__} needs GRPOModule; {type(pl_module).__name__} has no rollouts"
            )
        self._seen: ScoredRollouts | None = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Hand on a window that was not there before."""
        assert isinstance(pl_module, GRPOModule)
        if pl_module.scored is not None and pl_module.scored is not self._seen:
            self._seen = pl_module.scored
            self.on_rollouts(trainer, pl_module, pl_module.scored)

    def on_rollouts(self, trainer: Trainer, module: GRPOModule, scored: ScoredRollouts) -> None:
        """What to do with this process's part of a window."""
        raise NotImplementedError


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

    def on_rollouts(self, trainer: Trainer, module: GRPOModule, scored: ScoredRollouts) -> None:
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

    def on_rollouts(self, trainer: Trainer, module: GRPOModule, scored: ScoredRollouts) -> None:
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


class CollapseMonitor(RolloutCallback):
    """Watches the variety of what the policy writes, and warns when it collapses.

    Logs ``completions/unique`` over each window, and the task's coarser levels of identity.

    Args:
        min_unique: share of distinct texts in a window below which it warns.
        stop: end training after ``patience`` windows in a row below that share.
        patience: see ``stop``.
    """

    def __init__(self, min_unique: float = 0.5, stop: bool = False, patience: int = 5) -> None:
        self.min_unique, self.stop, self.patience = min_unique, stop, patience
        self._low = 0

    def on_rollouts(self, trainer: Trainer, module: GRPOModule, scored: ScoredRollouts) -> None:
        """Measure a window."""
        texts = gather_lists(trainer, [rollout.text for rollout in scored.rollouts])
        shares = trainer.datamodule.unique_shares(texts)  # type: ignore[attr-defined]
        module.log_dict({f"completions/{level}": torch.tensor(share) for level, share in shares.items()})
        self._low = self._low + 1 if shares["unique"] < self.min_unique else 0
        if self._low == 1:
            logger.warning(
                "only %.0f %% of this window's texts are distinct: the policy collapses", 100 * shares["unique"]
            )
        if self.stop and self._low >= self.patience:
            logger.warning("stopping: %d windows in a row below min_unique=%.2f", self._low, self.min_unique)
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """How many windows in a row were low."""
        return {"low": self._low}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self._low = state_dict["low"]


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
