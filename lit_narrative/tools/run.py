"""``lit-narrative run``: the jobs of a recipe, what is done already left out."""

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lit_narrative.errors import UserError, check_least
from lit_narrative.files import write_json
from lit_narrative.tools.process import (
    Process,
    Started,
    ending,
    exit_code,
    job_digest,
    read_stamp,
    resumes_from,
    stamp_path,
    start_job,
)
from lit_narrative.tools.recipe import Job, Recipe, read_recipe, references
from lit_narrative.tools.recipe_sweep import write_sweep

_POLL = 0.1


def run(
    recipe: str,
    out: str | None = None,
    seed: Sequence[int] = (),
    set: Sequence[str] = (),
    workers: int | None = None,
) -> None:
    """Run a recipe: its jobs in order, each in a process of its own.

    A job that has finished is left out the next time, unless its settings, or the jobs that it builds on, have changed.
    A fit that was interrupted goes on from its last checkpoint. ``recipe.json`` in ``out`` says what was asked for.

    Args:
        recipe: a file, or the name of a shipped recipe, such as ``storyworld``.
        out: folder of the jobs' folders, in place of the recipe's.
        seed: of every job, 0 or more, in place of the recipe's ``seed``; one or several in place of its ``seeds``.
        set: ``JOB.SETTING=VALUE``, over the settings of a job, or of every job as ``all.SETTING=VALUE``, for every
            seed; may be given several times.
        workers: jobs at a time, in place of the recipe's; a job waits for those that it refers to. With several, what
            a job prints goes to ``log.txt`` in its folder.

    Raises:
        UserError: the recipe, or what it names, is wrong.
        SystemExit: a job failed; the code is the job's.
    """
    for number in seed:
        check_least("--seed", number, 0)
    check_least("--workers", workers, 1)
    plan = read_recipe(recipe, out=out, changes=set, seeds=seed)
    for job in plan.jobs:
        if job.command == "sweep":
            write_sweep(plan, job)
    # Before the jobs, since one of them may be the report, which says how to make the folder again.
    write_json(plan.out / "recipe.json", {"recipe": recipe, "seeds": plan.seeds, "set": list(set)})
    run_jobs(replace(plan, workers=workers or plan.workers))
    report = plan.out / "report.html"
    print(f"report: {report}" if report.is_file() else f"results: {plan.out}")


def run_jobs(plan: Recipe) -> None:
    """Run all jobs, ``workers`` at a time, each after those that it needs.

    Raises:
        SystemExit: one failed; those that still run are ended.
    """
    waiting, finished = list(plan.jobs), set[str]()
    started: list[Started] = []
    processes: list[Process] = []
    with ending(processes):
        while waiting or started:
            ready = next((job for job in waiting if finished.issuperset(job.needs)), None)
            if ready is not None and len(started) < plan.workers:
                waiting.remove(ready)
                if (one := begin(plan, ready, quiet=plan.workers > 1)) is None:
                    finished.add(ready.name)
                else:
                    started.append(one)
                    processes.append(one.process)
                continue
            for one in _ended(started):
                started.remove(one)
                finish(plan, one)
                finished.add(one.job.name)


def _ended(started: Sequence[Started]) -> list[Started]:
    """Wait for some to end; the terminal sends an interrupt to them too, and they end in their own way.

    Raises:
        KeyboardInterrupt: the user interrupts a second time.
    """
    interrupted = False
    while started and all(one.process.poll() is None for one in started):
        try:
            time.sleep(_POLL)
        except KeyboardInterrupt:
            if interrupted:
                raise
            interrupted = True
    return [one for one in started if one.process.poll() is not None]


def begin(plan: Recipe, job: Job, quiet: bool) -> Started | None:
    """Start a job unless it has finished with the same settings.

    Args:
        plan: the recipe.
        job: of it.
        quiet: write what it prints to a file in its folder.
    """
    digest, stamp = job_digest(plan, job), read_stamp(plan, job)
    if stamp.get("digest") == digest and stamp.get("finished") and all(path.exists() for path in leaves(plan, job)):
        print(f"{_label(plan, job)}: done before, in {stamp['seconds']:.0f} s", flush=True)
        return None
    how = "goes on from its last checkpoint " if resumes_from(plan, job, digest) else ""
    print(f"{_label(plan, job)}: {job.command} {how}...", flush=True)
    return start_job(plan, job, digest, quiet=quiet)


def _label(plan: Recipe, job: Job) -> str:
    return f"[{plan.jobs.index(job) + 1}/{len(plan.jobs)}] {job.name}"


def finish(plan: Recipe, one: Started) -> None:
    """Write down that a job is done.

    Raises:
        SystemExit: it failed.
        UserError: it left no checkpoint, and others ask for one.
    """
    if code := exit_code(one.process.returncode):
        said = f"'{one.log}' says why; " if one.log else ""
        print(
            f"error: job '{one.job.name}' ended with code {code}; {said}run the same command again to go on",
            file=sys.stderr,
        )
        raise SystemExit(code)
    seconds = time.monotonic() - one.since
    for path in leaves(plan, one.job):
        if not path.exists():
            raise UserError(f"job '{one.job.name}' left no '{path}': give its ModelCheckpoint `save_last: true`")
    write_json(stamp_path(plan, one.job), {"digest": one.digest, "finished": time.time(), "seconds": seconds})
    print(f"{_label(plan, one.job)}: done in {seconds:.0f} s", flush=True)


def leaves(plan: Recipe, job: Job) -> list[Path]:
    """Return the files without which a job has to run again: a page, a table, a checkpoint that others ask for."""
    if job.command == "report":
        return [plan.out / "report.html"]
    if job.command == "sweep":
        return [plan.out / "analysis_summary.csv"]
    asked = f"jobs.{job.name}.ckpt"
    wanted = any(asked in references(other.overrides) for other in plan.jobs)
    return [Path(plan.resolve(f"${{{asked}}}"))] if wanted else []
