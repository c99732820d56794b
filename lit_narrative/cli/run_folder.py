"""What every job leaves in its run folder: the settings it ran with, and the table of its metrics."""

import os
from pathlib import Path
from typing import Any

import yaml
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from lit_narrative.cli.folder import lock_path, stage_file
from lit_narrative.errors import UserError
from lit_narrative.files import append_text, csv_text, read_table, write_table, write_text
from lit_narrative.progress import logged_steps
from lit_narrative.redaction import redact

ROWS = "metrics_rows"
"""Key of a checkpoint under which the number of rows in ``metrics.csv`` stands."""


class MetricsTable(ExperimentWriter):
    """Lightning's writer of ``metrics.csv``, without half-written files, and with the earlier rows of a resumed run.

    Rows are appended, each in one write; when a new metric asks for a new column, the whole table takes its place.

    Args:
        folder: the run folder.
        name: of the file.
        keep: whether to continue the table that is there; ``truncate`` then drops what the run does again.
    """

    def __init__(self, folder: str, name: str, *, keep: bool) -> None:
        super().__init__(folder)
        self.metrics_file_path = os.path.join(folder, name)
        continued = keep and os.path.isfile(self.metrics_file_path)
        self.rows: list[dict[str, Any]] = [*read_table(self.metrics_file_path)] if continued else []

    def _check_log_dir_exists(self) -> None:
        """Leave the folder as it is: its other files are the run's own."""

    def log_hparams(self, params: dict[str, Any]) -> None:
        """Leave them to the run folder's ``config.yaml``, which holds them and everything else."""

    def truncate(self, rows: int) -> None:
        """Drop all rows but the first ``rows``: they belong to what the resumed run does again."""
        del self.rows[rows:]
        self.metrics_keys = []  # so that the next `save` writes the whole table, without the rows that went

    def save(self) -> None:
        """Write the rows that are new, under one column a metric, in order of name."""
        if not self.metrics:
            return
        new, self.metrics = self.metrics, []
        self.rows += new
        # Appending keeps a long run's cost linear; a new column has to change the header, so all rows are written.
        if set().union(*new) <= set(self.metrics_keys):
            append_text(self.metrics_file_path, csv_text(self._cells(new)))
        else:
            self.metrics_keys = sorted(set().union(*self.rows))
            write_table(self.metrics_file_path, self.metrics_keys, self._cells(self.rows))

    def _cells(self, rows: list[dict[str, Any]]) -> list[list[Any]]:
        return [[row.get(name) for name in self.metrics_keys] for row in rows]


class RunLogger(CSVLogger):
    """The metrics of a job as ``metrics.csv`` in its run folder, without sub-folders of versions.

    Args:
        save_dir: the run folder.
        subcommand: the job; only a fit writes ``metrics.csv``, see ``stage_file``.
        resume: whether the job resumes from a checkpoint, and so continues the table.
    """

    def __init__(self, save_dir: str, subcommand: str = "fit", resume: bool = False) -> None:
        # Lightning's sub-folders <name>/version_<n> go away with an empty name and version.
        super().__init__(save_dir, name="", version="", flush_logs_every_n_steps=20)
        self._file = stage_file(ExperimentWriter.NAME_METRICS_FILE, subcommand)
        self._resume = resume

    @property
    def log_dir(self) -> str:
        """The run folder itself."""
        return self.save_dir

    @property
    @rank_zero_experiment
    def experiment(self) -> MetricsTable:
        """The table; on other ranks than the first a stand-in that writes nothing."""
        if not isinstance(self._experiment, MetricsTable):
            self._experiment = MetricsTable(self.log_dir, self._file, keep=self._resume)
        return self._experiment


def _without_keys(text: str) -> str:
    """A configuration as YAML text with its keys hidden; as it is where it has none."""
    content = yaml.safe_load(text)
    hidden = redact(content)
    if hidden == content:
        return text
    # Not in the text: YAML breaks long values over lines.
    header = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    return header + yaml.safe_dump(hidden, sort_keys=False, allow_unicode=True)


class SaveRun(SaveConfigCallback):
    """Save the settings to the run folder, whole, and set a resumed run's table back to its checkpoint."""

    _rows: int | None = None

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write ``config.yaml``; called on the first rank."""
        assert trainer.state.fn is not None
        name = stage_file(self.config_filename, trainer.state.fn.value)
        settings = self.parser.dump(self.config, skip_unset=False, skip_validation=True)  # checked as they were parsed
        write_text(Path(trainer.default_root_dir) / name, _without_keys(settings))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Note how many rows of metrics the table has, those that a callback has logged by itself too."""
        for table in _tables(trainer):
            table.save()
            checkpoint[ROWS] = len(table.rows)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Read how many rows to keep."""
        self._rows = checkpoint.get(ROWS)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End a run whose folder is gone: what it goes on to write would be half a run.

        Raises:
            UserError: the folder was removed.
        """
        folder = trainer.default_root_dir
        if trainer.is_global_zero and not lock_path(folder, "fit").exists():
            raise UserError(
                f"the run folder '{folder}' was removed while the run was going on (step {trainer.global_step})"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop the metrics that were logged after the checkpoint."""
        for table in _tables(trainer) if trainer.ckpt_path else []:
            rows = self._rows
            if rows is None:  # a checkpoint from before there was this key has its step alone
                rows = sum(int(row["step"]) < logged_steps(trainer) for row in table.rows)
            table.truncate(rows)


def _tables(trainer: Trainer) -> list[MetricsTable]:
    """The table of the run, on the process that writes it."""
    loggers = trainer.loggers if trainer.is_global_zero else []
    return [logger.experiment for logger in loggers if isinstance(logger, RunLogger)]
