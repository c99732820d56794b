"""A job of a recipe or a sweep as a process: its command line, the digest of its settings, and its status.

The status is a JSON file in the job's folder, ``job.json``: digest, when it finished, and how long it took.
"""

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any

from lit_narrative import __version__
from lit_narrative.cli.folder import locked, whole_checkpoints
from lit_narrative.cli.names import check_names
from lit_narrative.cli.recipes.changes import digest_of, digests_of_parts, own_modules
from lit_narrative.cli.recipes.meter import VARIABLE, Meter, Reading
from lit_narrative.cli.recipes.recipe import FOLDER_COMMANDS, Job, Recipe
from lit_narrative.errors import UserError
from lit_narrative.files import read_yaml, write_json
from lit_narrative.interrupts import SIGNALS
from lit_narrative.report.records import read_record

Process = subprocess.Popen[bytes]
LOG = "log.txt"
"""What a job printed, in its folder, where several run at once."""


def arguments(plan: Recipe, job: Job, checkpoint: Path | None = None) -> list[str]:
    """Return the command line of a job after ``lit-narrative``.

    Args:
        plan: the recipe.
        job: one of its jobs.
        checkpoint: from which an interrupted fit resumes.
    """
    if job.command == "sweep":
        return ["sweep", str(sweep_path(plan, job)), f"--workers={plan.workers}"]
    if job.command in FOLDER_COMMANDS:
        named = [f"--report={job.report}"] if job.report else []
        return [job.command, str(plan.out), *named, *(f"--section={path}" for path in job.sections)]
    folder, seed = ("to", "seed") if job.command == "extract" else ("trainer.default_root_dir", "seed_everything")
    settings: dict[str, Any] = {folder: str(plan.output(job))}
    if job.seed is not None:
        settings[seed] = job.seed
    settings |= {key: plan.resolve(value) for key, value in job.overrides.items()}
    if checkpoint:
        settings["ckpt_path"] = str(checkpoint)
    return [
        job.command,
        *(f"--config={path}" for path in job.configs),
        *(f"--{key}={_text(value)}" for key, value in settings.items()),
    ]


def sweep_path(plan: Recipe, job: Job) -> Path:
    """Return the file of a sweep with the settings that the recipe gives it."""
    return plan.out / f"{job.name}.yaml"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def job_digest(plan: Recipe, job: Job) -> str:
    """Return a digest of what decides a job's result."""
    return digest_of(what_decides(plan, job))


def what_decides(plan: Recipe, job: Job) -> dict[str, Any]:
    """Return what decides a job's result: its settings, its configurations, modules they name, runs it builds on."""
    decides: dict[str, Any] = {
        "version": __version__,
        "command": job.command,
        "configs": [path.read_text(encoding="utf-8") for path in job.configs],
        "overrides": dict(job.overrides),
        "seed": job.seed,
        "needs": {other.name: read_status(plan, other) for other in plan.jobs if other.name in job.needs},
    }
    if job.report:  # only then: the jobs of folders from before there was this key keep their digests
        decides["report"] = job.report
    if job.sections:
        decides["sections"] = list(job.sections)
    named = [job.overrides, job.report, list(job.sections), *(read_yaml(path) for path in job.configs)]
    if modules := own_modules(named):
        decides["modules"] = modules
    return decides


def status_path(plan: Recipe, job: Job) -> Path:
    """Return the file of a job's status: with which settings it was started, and when it finished."""
    return plan.out / f"{job.name}.job.json" if job.command in FOLDER_COMMANDS else plan.folder(job) / "job.json"


def read_status(plan: Recipe, job: Job) -> dict[str, Any]:
    """Return a job's status; an empty one if it was never started."""
    path = status_path(plan, job)
    return dict(read_record(path).value) if path.is_file() else {}


def clear(plan: Recipe, job: Job) -> None:
    """Remove what an earlier run of a job left, so that its files do not mix with the new ones.

    Raises:
        UserError: the folder is not a recipe's.
    """
    folder = plan.folder(job)
    if job.command in FOLDER_COMMANDS or not folder.exists():
        return
    if any(folder.iterdir()) and not status_path(plan, job).is_file():
        raise UserError(f"the folder '{folder}' holds files that are not a recipe's: name another folder by --out")
    with locked(folder, job.command):  # a run from outside the recipe may be at work there
        shutil.rmtree(folder)


@dataclass(frozen=True, slots=True)
class Started:
    """A job that was started.

    Attributes:
        job: what runs.
        digest: of its settings.
        process: in which it runs.
        log: file of what it prints; None: the terminal.
        since: when it was started, by the monotonic clock.
        log_start: size of that file before.
        meter: of how far it is; None where it does not say.
    """

    job: Job
    digest: str
    process: Process
    log: Path | None
    since: float
    log_start: int = 0
    meter: Meter | None = None

    def reading(self) -> Reading:
        """How far it is."""
        return self.meter.read() if self.meter else Reading("")


def resumes_from(plan: Recipe, job: Job, digest: str) -> Path | None:
    """Return the checkpoint from which a fit resumes that was interrupted under the same settings."""
    same = read_status(plan, job).get("digest") == digest
    # One that a full disk or a broken one cut off would fail again and again.
    return next(iter(whole_checkpoints(plan.folder(job))), None) if same and job.command == "fit" else None


def start_job(
    plan: Recipe, job: Job, digest: str, *, quiet: bool, watched: bool = False, anew: bool = False
) -> Started:
    """Start a job in a folder that holds nothing of an earlier one, or resume a fit.

    Args:
        plan: the recipe.
        job: of it.
        digest: of its settings.
        quiet: write what it prints to a file.
        watched: ask it to say how far it is.
        anew: do not resume.
    """
    checkpoint = None if anew else resumes_from(plan, job, digest)
    if checkpoint is None:
        clear(plan, job)
    # Before the process: a kill from here on leaves a folder that is known as a recipe's, and an unfinished job.
    parts = digests_of_parts(job, what_decides(plan, job))
    write_json(status_path(plan, job), {"digest": digest, "finished": None, "parts": parts})
    log = log_path(plan, job) if quiet else None
    start = log.stat().st_size if log and log.exists() else 0
    meter = Meter() if watched else None
    with nullcontext() if log is None else log.open("ab") as output:
        process = start_process(arguments(plan, job, checkpoint), plan.threads, output, meter)
    return Started(job, digest, process, log, time.monotonic(), start, meter)


def log_path(plan: Recipe, job: Job) -> Path:
    """Return the file of what a job prints, where that does not go to the terminal."""
    return plan.out / f"{job.name}.{LOG}" if job.command in FOLDER_COMMANDS else plan.folder(job) / LOG


def start_process(
    args: list[str], threads: int | None, output: IO[bytes] | None = None, meter: Meter | None = None
) -> Process:
    """Start ``lit-narrative``; on Linux it ends with this process, even when that is killed.

    Args:
        args: its command line.
        threads: of PyTorch in it; None: as many as a measurement finds fastest.
        output: a file for what it prints; None: where this process prints.
        meter: to which it is to say how far it is.
    """
    defaults = {} if threads is None else {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    way = {} if meter is None else {VARIABLE: str(meter.given)}
    process = subprocess.Popen(
        [sys.executable, "-m", "lit_narrative", *args],
        env=defaults | os.environ | way,  # in this order: what the person has set for threads wins
        pass_fds=() if meter is None else (meter.given,),
        stdout=output,
        stderr=output,
        preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        # A terminal sends Ctrl-C to the whole group. A job gets it from the recipe alone, which may have it from
        # elsewhere, and so never twice.
        process_group=0,
    )
    if meter is not None:
        os.close(meter.given)  # the job alone holds it from here on
    return process


def check_settings(plan: Recipe, jobs: Sequence[Job]) -> None:
    """Check the names in the settings of jobs, and parse these as the jobs will, in a process of its own.

    Args:
        plan: the recipe.
        jobs: of it, that will run; of several seeds one is enough.

    Raises:
        UserError: a name is wrong.
        SystemExit: a value is wrong; with the code of the process.
    """
    for job in jobs:
        if job.command not in {*FOLDER_COMMANDS, "extract"}:
            try:
                check_names(job.command, arguments(plan, job)[1:])  # in a moment, and most mistakes are there
            except UserError as error:
                raise UserError(f"job '{job.name}': {error}") from error
    by_name = {job.name.rpartition("/")[2]: job for job in jobs if job.command not in FOLDER_COMMANDS}
    if len(by_name) < 2:  # a single one parses its own as it starts
        return
    lines = {name: arguments(plan, job) for name, job in by_name.items()}
    # For a process that ends in a moment there is no garbage worth looking for.
    command = [sys.executable, "-c", "import gc; gc.disable(); from lit_narrative.cli.check import main; main()"]
    if code := subprocess.run(command, input=json.dumps(lines), text=True).returncode:
        raise SystemExit(exit_code(code))


def source_commit() -> str:
    """The git commit that this package runs from, ``+`` behind it with changes; empty outside a git checkout."""
    package = Path(__file__).parents[2]
    git = ["git", "-C", str(package)]
    try:
        subprocess.run([*git, "ls-files", "--error-unmatch", "__init__.py"], check=True, capture_output=True)
        describe = [*git, "describe", "--always", "--exclude=*", "--dirty=+"]
        return subprocess.run(describe, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # no git here, or an installed package
        return ""


def exit_code(code: int) -> int:
    """The code of a process as a shell gives it: 128 + n when signal n ended it."""
    return code if code >= 0 else 128 - code


@contextmanager
def ending(processes: Collection[Process]) -> Iterator[None]:
    """End the processes that are still running at the end, or when this one is asked to end."""
    # The default action of SIGTERM ends Python without `finally`, and so would leave the children running.
    handler = signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would leave the jobs while they save
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()
        signal.signal(signal.SIGTERM, handler)


@contextmanager
def not_ended() -> Iterator[None]:
    """Obey SIGINT and SIGTERM behind the work within: a process that is just started is in no list of those to end."""
    heard: list[int] = []
    handlers = {number: signal.signal(number, lambda one, _: heard.append(one)) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for late in heard:
        signal.raise_signal(late)


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


def _end_with_parent() -> None:
    assert _LIBC is not None
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
