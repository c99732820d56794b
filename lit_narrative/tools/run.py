"""``lit-narrative run``: the jobs of a recipe, one after another, what is done already left out."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from lit_narrative import __version__
from lit_narrative.errors import UserError, check_least
from lit_narrative.files import write_json
from lit_narrative.tools.recipe import TOOLS, Job, Recipe, read_recipe


def run(recipe: str, out: str | None = None, seed: Sequence[int] = (), set: Sequence[str] = ()) -> None:
    """Run a recipe: its jobs one after another, each in a process of its own.

    A job that has finished is left out the next time, unless its settings, or the jobs that it builds on, have changed.
    A fit that was interrupted goes on from its last checkpoint.

    Args:
        recipe: a file, or the name of a shipped recipe, such as ``storyworld``.
        out: folder of the jobs' folders, in place of the recipe's.
        seed: of every job, 0 or more, in place of the recipe's ``seed``; one or several in place of its ``seeds``.
        set: ``JOB.SETTING=VALUE``, over the settings of a job, for every seed; may be given several times.

    Raises:
        UserError: the recipe, or what it names, is wrong.
        SystemExit: a job failed; the code is the job's.
    """
    for number in seed:
        check_least("--seed", number, 0)
    plan = read_recipe(recipe, out=out, changes=set, seeds=seed)
    for number, job in enumerate(plan.jobs, 1):
        run_job(plan, job, f"[{number}/{len(plan.jobs)}] {job.name}")
    report = plan.out / "report.html"
    print(f"report: {report}" if report.is_file() else f"results: {plan.out}")


def run_job(plan: Recipe, job: Job, label: str) -> None:
    """Run a job unless it has finished with the same settings.

    Raises:
        SystemExit: it failed.
    """
    digest, stamp = job_digest(plan, job), read_stamp(plan, job)
    same = stamp.get("digest") == digest
    if same and stamp.get("finished") and all(path.exists() for path in leaves(plan, job)):
        print(f"{label}: done before, in {stamp['seconds']:.0f} s", flush=True)
        return
    checkpoint = plan.folder(job) / "checkpoints" / "last.ckpt"
    resume = same and job.command == "fit" and checkpoint.is_file()
    if not resume:
        clear(plan, job)
    print(f"{label}: {job.command} {'goes on from its last checkpoint ' if resume else ''}...", flush=True)
    write_json(stamp_path(plan, job), {"digest": digest, "finished": None})
    start = time.monotonic()
    if code := run_process(arguments(plan, job, checkpoint if resume else None), plan.threads):
        print(f"error: job '{job.name}' ended with code {code}; run the same command again to go on", file=sys.stderr)
        raise SystemExit(code)
    seconds = time.monotonic() - start
    for path in leaves(plan, job):
        if not path.exists():
            raise UserError(f"job '{job.name}' left no '{path}': give its ModelCheckpoint `save_last: true`")
    write_json(stamp_path(plan, job), {"digest": digest, "finished": time.time(), "seconds": seconds})
    print(f"{label}: done in {seconds:.0f} s", flush=True)


def arguments(plan: Recipe, job: Job, checkpoint: Path | None = None) -> list[str]:
    """Return the command line of a job after ``lit-narrative``.

    Args:
        plan: the recipe.
        job: one of its jobs.
        checkpoint: where an interrupted fit goes on.
    """
    settings: dict[str, Any] = {} if job.command in TOOLS else {"trainer.default_root_dir": str(plan.folder(job))}
    if job.seed is not None and job.command not in TOOLS:
        settings["seed_everything"] = job.seed
    settings |= {key: plan.resolve(value) for key, value in job.overrides.items()}
    if checkpoint:
        settings["ckpt_path"] = str(checkpoint)
    first = [str(plan.out)] if job.command in TOOLS else [f"--config={path}" for path in job.configs]
    return [job.command, *first, *(f"--{key}={_text(value)}" for key, value in settings.items())]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def job_digest(plan: Recipe, job: Job) -> str:
    """Return a digest of what decides a job's result: its settings, its configurations, the runs it builds on."""
    decides = {
        "version": __version__,
        "command": job.command,
        "configs": [path.read_text(encoding="utf-8") for path in job.configs],
        "overrides": dict(job.overrides),
        "seed": job.seed,
        "needs": {other.name: read_stamp(plan, other) for other in plan.jobs if other.name in job.needs},
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def stamp_path(plan: Recipe, job: Job) -> Path:
    """Return the file that says with which settings a job was started, and when it finished."""
    return plan.out / f"{job.name}.job.json" if job.command in TOOLS else plan.folder(job) / "job.json"


def read_stamp(plan: Recipe, job: Job) -> dict[str, Any]:
    """Return a job's stamp, an empty one if it was never started."""
    path = stamp_path(plan, job)
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def leaves(plan: Recipe, job: Job) -> list[Path]:
    """Return the files without which a job has to run again: the report, and a checkpoint that others ask for."""
    if job.command == "report":
        return [plan.out / "report.html"]
    asked = [value for other in plan.jobs for value in other.overrides.values() if isinstance(value, str)]
    reference = f"${{jobs.{job.name}.ckpt}}"
    return [Path(plan.resolve(reference))] if any(reference in value for value in asked) else []


def clear(plan: Recipe, job: Job) -> None:
    """Remove what an earlier run of a job left, so that its files do not mix with the new ones.

    Raises:
        UserError: the folder is not a recipe's.
    """
    folder = plan.folder(job)
    if job.command in TOOLS or not folder.exists():
        return
    if any(folder.iterdir()) and not stamp_path(plan, job).is_file():
        raise UserError(f"the folder '{folder}' holds files that are not a recipe's: name another folder by --out")
    shutil.rmtree(folder)


def run_process(args: list[str], threads: int | None) -> int:
    """Run ``lit-narrative`` in a process of its own; return its exit code (128 + n when signal n ended it).

    The terminal sends an interrupt to that process too, which then ends in its own way: it is waited for.
    """
    defaults = {} if threads is None else {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    process = subprocess.Popen([sys.executable, "-m", "lit_narrative", *args], env=defaults | os.environ)
    handler = signal.signal(signal.SIGTERM, _end)
    try:
        while (code := _wait(process)) is None:
            pass
        return code if code >= 0 else 128 - code
    finally:
        process.terminate()
        process.wait()
        signal.signal(signal.SIGTERM, handler)


def _wait(process: subprocess.Popen[bytes]) -> int | None:
    try:
        return process.wait()
    except KeyboardInterrupt:
        return None


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
