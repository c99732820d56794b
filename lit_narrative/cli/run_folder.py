"""What every job leaves in its run folder: the settings it ran with, and the table of its metrics."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from lit_narrative.cli.faults import note_run_folder
from lit_narrative.errors import UserError
from lit_narrative.files import append_text, csv_text, read_table, write_table, write_text
from lit_narrative.progress import logged_steps
from lit_narrative.redaction import redact

_SCRATCH = "LIT_NARRATIVE_SCRATCH"


def stage_file(name: str, subcommand: str) -> str:
    """Return the name of a job's file: ``config.yaml`` of a fit, ``config_test.yaml`` of a test.

    A test of a trained run, in the folder of that run, then leaves the run's own files alone.
    """
    stem, suffix = os.path.splitext(name)
    return name if subcommand == "fit" else f"{stem}_{subcommand}{suffix}"


def prepare_folder(folder: str | Path) -> None:
    """Make the run folder and see that files can be written there, before any work.

    Raises:
        UserError: they cannot.
    """
    note_run_folder(folder)
    # The process's number keeps ranks, which all check, from removing each other's file.
    probe = Path(folder) / f".probe-{os.getpid()}"
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"the run folder '{folder}' cannot be written ({error.strerror}): "
            "name another by --trainer.default_root_dir"
        ) from error


def check_unused(folder: str | Path, checkpoint: str | None) -> None:
    """See that no earlier fit left a ``last.ckpt`` there: Lightning would write ``last-v1.ckpt`` beside the old one.

    Args:
        folder: the run folder.
        checkpoint: from which the fit resumes; the folder's own ``last.ckpt`` is then replaced.

    Raises:
        UserError: there is one, and the fit does not resume from it.
    """
    last = Path(folder, "checkpoints", "last.ckpt")
    if last.exists() and (checkpoint is None or Path(checkpoint).resolve() != last.resolve()):
        raise UserError(
            f"an earlier fit left '{last}', which this one would not replace: resume from it by --ckpt_path={last}, "
            "name another folder by --trainer.default_root_dir, or remove it"
        )


@contextmanager
def shared_scratch() -> Iterator[str]:
    """Make a folder that is removed at the end, the same for all processes that Lightning starts for this job."""
    if _SCRATCH in os.environ:
        yield os.environ[_SCRATCH]
        return
    with TemporaryDirectory(prefix="lit-narrative-") as folder:
        os.environ[_SCRATCH] = folder  # Lightning starts the other ranks with this environment
        try:
            yield folder
        finally:
            del os.environ[_SCRATCH]


class MetricsTable(ExperimentWriter):
    """Lightning's writer of ``metrics.csv``, without half-written files, and with the earlier rows of a resumed run.

    Rows are appended, each in one write; when a new metric asks for a new column, the whole table takes its place.

    Args:
        folder: the run folder.
        name: of the file.
        keep: whether to continue the table that is there; ``rewind`` then drops what the run does again.
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

    def rewind(self, step: int) -> None:
        """Drop the rows of ``step`` and after it: they belong to steps that the resumed run takes again."""
        self.rows = [row for row in self.rows if int(row["step"]) < step]
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

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write ``config.yaml``; called on the first rank."""
        assert trainer.state.fn is not None
        name = stage_file(self.config_filename, trainer.state.fn.value)
        write_text(Path(trainer.default_root_dir) / name, _without_keys(self.parser.dump(self.config, skip_none=False)))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop the metrics that were logged after the checkpoint."""
        for logger in trainer.loggers:
            if trainer.ckpt_path and trainer.is_global_zero and isinstance(logger, RunLogger):
                logger.experiment.rewind(logged_steps(trainer))
