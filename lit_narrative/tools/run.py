"""``lit-narrative run``: the jobs of a recipe, one after another, what is done already left out."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from lit_narrative.errors import UserError, check_least
from lit_narrative.files import write_json
from lit_narrative.tools.process import arguments, clear, job_digest, read_stamp, run_process, stamp_path
from lit_narrative.tools.recipe import Job, Recipe, read_recipe


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


def leaves(plan: Recipe, job: Job) -> list[Path]:
    """Return the files without which a job has to run again: the report, and a checkpoint that others ask for."""
    if job.command == "report":
        return [plan.out / "report.html"]
    asked = [value for other in plan.jobs for value in other.overrides.values() if isinstance(value, str)]
    reference = f"${{jobs.{job.name}.ckpt}}"
    return [Path(plan.resolve(reference))] if any(reference in value for value in asked) else []
