"""A folder before a job works in it: it can be written, no one else is at work there, nothing in it is lost."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import is_zipfile

from filelock import FileLock, Timeout

from lit_narrative.cli.faults import note_run_folder
from lit_narrative.errors import UserError

LAST = "last.ckpt"
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


@contextmanager
def locked(folder: str | Path, work: str) -> Iterator[None]:
    """Hold a folder for one kind of work; the system lets go of it when this process ends, however it ends.

    Args:
        folder: it is made if need be.
        work: such as ``fit``; other kinds may go on in the same folder.

    Raises:
        UserError: another process holds it.
    """
    path = lock_path(folder, work)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(
            f"another process is at work in '{folder}' ({work}): wait for its end, or name another folder "
            "(--trainer.default_root_dir of a job, --out of a recipe or a sweep)"
        ) from error
    try:
        yield
    finally:
        lock.release()


def lock_path(folder: str | Path, work: str) -> Path:
    """Return the file whose lock says that a kind of work goes on in a folder."""
    return Path(folder, f".{work}.lock")


def whole_checkpoints(folder: str | Path) -> list[Path]:
    """Return the checkpoints of a run that are not cut off, ``last.ckpt`` first, then the newest first."""
    paths = sorted(Path(folder, "checkpoints").glob("*.ckpt"), key=lambda path: path.stat().st_mtime, reverse=True)
    # The directory of a zip archive, which PyTorch writes, is its end: where that is missing, so is the rest.
    return sorted(filter(is_zipfile, paths), key=lambda path: path.name != LAST)


def check_whole(folder: str | Path, checkpoint: str | None) -> None:
    """See that a checkpoint to resume from is not cut off.

    Args:
        folder: the run folder.
        checkpoint: a path, ``last`` for the run's own, or another keyword, which is left to Lightning.

    Raises:
        UserError: it is; the message names the last one that is whole.
    """
    path = Path(folder, "checkpoints", LAST) if checkpoint == "last" else Path(checkpoint or "")
    if path.is_file() and path.suffix == ".ckpt" and not is_zipfile(path):
        others = whole_checkpoints(path.parent.parent)
        remedy = f"the last whole one is '{others[0]}'" if others else "there is no whole one beside it: start over"
        raise UserError(f"the checkpoint '{path}' is damaged, its end is missing; {remedy}")


def check_unused(folder: str | Path, checkpoint: str | None) -> None:
    """See that no earlier fit left a ``last.ckpt`` there: Lightning would write ``last-v1.ckpt`` beside the old one.

    Args:
        folder: the run folder.
        checkpoint: from which the fit resumes; the folder's own ``last.ckpt`` is then replaced.

    Raises:
        UserError: there is one, and the fit does not resume from it.
    """
    last = Path(folder, "checkpoints", LAST)
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
