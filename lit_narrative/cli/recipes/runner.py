"""Jobs of a recipe or a sweep as processes: several at a time, each after those it needs, each one's end recorded."""

import signal
import sys
import time
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from lit_narrative import __version__
from lit_narrative.cli.recipes.changes import describe_changes, digests_of_parts
from lit_narrative.cli.recipes.meter import describe_figures
from lit_narrative.cli.recipes.process import (
    LOG,
    Process,
    Started,
    check_settings,
    ending,
    exit_code,
    job_digest,
    not_ended,
    read_status,
    resumes_from,
    source_commit,
    start_job,
    status_path,
    what_decides,
)
from lit_narrative.cli.recipes.recipe import FOLDER_COMMANDS, Job, Recipe, references
from lit_narrative.cli.recipes.results import Row, read_row, run_digest
from lit_narrative.cli.recipes.sweep import Run, Sweep
from lit_narrative.cli.recipes.watch import watch_of
from lit_narrative.errors import UserError
from lit_narrative.files import write_json
from lit_narrative.redaction import redact_text
from lit_narrative.report.format import clip

_TICK = 0.25
"""Seconds between two looks at the jobs that run."""
_ERROR_LINES, _ERROR_LENGTH = 4, 500
"""How much of a failed run's last output its row of the table keeps: lines, and characters in all."""

Running = Mapping["Future[int]", Started]


# --- the scheduler ----------------------------------------------------------------------------------------------------


def execute(
    jobs: Sequence[Job],
    workers: int,
    begin: Callable[[Job], Started | None],
    *,
    watch: Callable[[Collection[Started]], None] | None = None,
    patient: bool = False,
) -> Generator[Started]:
    """Run jobs, each after those that it needs; of those that are ready the first of ``jobs`` starts first.

    What still runs when the iterator is closed, or this process is asked to end, is ended.

    Args:
        jobs: in order.
        workers: processes at a time.
        begin: starts a job's process; None: the job is done already.
        watch: called several times a second with the jobs that run.
        patient: on a first Ctrl-C, hand it to the jobs and wait for one to end in its own way.

    Yields:
        Each job when it has ended; the jobs that need it start after the caller has come back for the next one.
    """
    number = {job.name: index for index, job in enumerate(jobs)}
    order = TopologicalSorter({job.name: job.needs for job in jobs})
    order.prepare()
    ready: list[str] = []
    running: dict[Future[int], Started] = {}
    processes: list[Process] = []
    # The pool is left last: its threads return when `ending` has ended the processes that they wait for.
    with ThreadPoolExecutor(workers) as pool, ending(processes):
        while order.is_active():
            ready = sorted([*ready, *order.get_ready()], key=number.__getitem__)
            if ready and len(running) < workers:
                # Started from this thread: Linux ends a child with the *thread* that made it (PR_SET_PDEATHSIG).
                with not_ended():
                    if one := begin(jobs[number[ready[0]]]):
                        processes.append(one.process)
                name = ready.pop(0)
                if one is None:
                    order.done(name)
                    continue
                running[pool.submit(one.process.wait)] = one
                continue
            for future in _first_ended(running, watch, patient):
                yield (one := running.pop(future))
                order.done(one.job.name)


def _first_ended(
    running: Running, watch: Callable[[Collection[Started]], None] | None, patient: bool
) -> list["Future[int]"]:
    """Wait for one or more to end; in the order of their start.

    Raises:
        KeyboardInterrupt: the user interrupts, with ``patient`` a second time.
    """
    try:
        ended = _wait(running, watch)
    except KeyboardInterrupt:
        if not patient:
            raise
        for one in running.values():
            one.process.send_signal(signal.SIGINT)
        ended = _wait(running, watch)
    return [future for future in running if future in ended]


def _wait(running: Running, watch: Callable[[Collection[Started]], None] | None) -> set["Future[int]"]:
    while not (ended := wait(running, None if watch is None else _TICK, FIRST_COMPLETED).done):
        assert watch is not None
        watch(running.values())
    return ended


# --- recipes ----------------------------------------------------------------------------------------------------------


def run_recipe(plan: Recipe, forced: Collection[str] = ()) -> dict[str, float]:
    """Run all jobs of a recipe, ``workers`` at a time, and show how far they are.

    Args:
        plan: the recipe.
        forced: names of jobs that run even if they are done.

    Returns:
        what each took, in seconds, in the order of their ends.

    Raises:
        SystemExit: a setting is wrong, or a job failed; those that still run are ended.
    """
    check_settings(plan, waiting(plan, forced))
    seconds: dict[str, float] = {}

    def begin(job: Job) -> Started | None:
        # The report and a sweep stand alone, so that what they print never runs into what other jobs do.
        quiet = view.live or (plan.workers > 1 and job.command not in FOLDER_COMMANDS)
        return begin_job(plan, job, seconds, quiet=quiet, forced=job.name in forced)

    # The view is left last: jobs that are told to end say where they have saved what they had reached.
    with (
        watch_of(plan, seconds) as view,
        closing(execute(plan.jobs, plan.workers, begin, watch=view.tick, patient=True)) as ended,
    ):
        for one in ended:
            view.ended(one)
            finish_job(plan, one, seconds)
    return seconds


def waiting(plan: Recipe, forced: Collection[str] = ()) -> list[Job]:
    """The jobs that are to run: those that are not done, and those that build on them."""
    jobs: list[Job] = []
    for job in plan.jobs:
        anew = job.name in forced or any(other.name in job.needs for other in jobs)
        if anew or not _is_done(plan, job, job_digest(plan, job)):
            jobs.append(job)
    return jobs


def _is_done(plan: Recipe, job: Job, digest: str) -> bool:
    status = read_status(plan, job)
    return status.get("digest") == digest and bool(status.get("finished")) and not _gone(plan, job)


def _gone(plan: Recipe, job: Job) -> list[str]:
    return [str(path) for path in leaves(plan, job) if not path.exists()]


def _why(plan: Recipe, job: Job, digest: str, forced: bool) -> str:
    """Why a job runs that ran before; empty where it did not."""
    status = read_status(plan, job)
    if not status:
        return ""
    if forced:
        return "again (--force) "
    if status["digest"] != digest:
        parts = digests_of_parts(job, what_decides(plan, job))
        return f"again ({describe_changes(status.get('parts'), parts)}) "
    gone = _gone(plan, job)
    return f"again ('{gone[0]}' is gone) " if status["finished"] and gone else "again (it did not finish) "


def begin_job(
    plan: Recipe, job: Job, seconds: dict[str, float], *, quiet: bool, forced: bool = False
) -> Started | None:
    """Start a job unless it has finished with the same settings.

    Args:
        plan: the recipe.
        job: of it.
        seconds: gets what the job took, if it is done.
        quiet: write what it prints to a file in its folder.
        forced: start it in any case, and anew.
    """
    digest = job_digest(plan, job)
    if not forced and _is_done(plan, job, digest):
        took = seconds[job.name] = read_status(plan, job)["seconds"]
        print(f"{_label(plan, job)}: done before, in {took:.0f} s", flush=True)
        return None
    resumes = not forced and resumes_from(plan, job, digest)
    how = "resumes from its last checkpoint " if resumes else _why(plan, job, digest, forced)
    print(f"{_label(plan, job)}: {job.command} {how}...", flush=True)
    return start_job(plan, job, digest, quiet=quiet, watched=True, anew=forced)


def _label(plan: Recipe, job: Job) -> str:
    return f"[{plan.jobs.index(job) + 1}/{len(plan.jobs)}] {job.name}"


def finish_job(plan: Recipe, one: Started, seconds: dict[str, float]) -> None:
    """Record that a job is done.

    Args:
        plan: the recipe.
        one: a job of it that has ended.
        seconds: gets what it took.

    Raises:
        SystemExit: it failed.
        UserError: it left no checkpoint, and others ask for one.
    """
    if code := exit_code(one.process.returncode):
        reason = f"'{one.log}' says why; " if one.log and plan.workers > 1 else ""  # else it stands above
        remedy = "put that right, and " if code == 2 else ""
        again = f"{remedy}run the same command again to resume"
        message = f"error: job '{one.job.name}' ended with code {code}; {reason}{again}"
        print(message, file=sys.stderr)
        raise SystemExit(code)
    took = seconds[one.job.name] = time.monotonic() - one.since
    for path in leaves(plan, one.job):
        if not path.exists():
            raise UserError(f"job '{one.job.name}' left no '{path}': give its ModelCheckpoint `save_last: true`")
    write_json(status_path(plan, one.job), read_status(plan, one.job) | {"finished": time.time(), "seconds": took})
    figures = ", ".join(describe_figures(one.reading().figures))
    if one.meter:
        one.meter.close()
    print(f"{_label(plan, one.job)}: done in {took:.0f} s{f' ({figures})' if figures else ''}", flush=True)


def leaves(plan: Recipe, job: Job) -> list[Path]:
    """Return the files without which a job has to run again: a page, a table, a checkpoint that others ask for."""
    if job.command == "report":
        return [plan.out / "report.html"]
    if job.command == "sweep":
        return [plan.out / "analysis_summary.csv"]
    if job.command == "extract":
        return [plan.output(job)]
    asked = f"jobs.{job.name}.ckpt"
    wanted = any(asked in references(other.overrides) for other in plan.jobs)
    return [Path(plan.resolve(f"${{{asked}}}"))] if wanted else []


# --- sweeps -----------------------------------------------------------------------------------------------------------


def run_sweep(sweep: Sweep, runs: Iterable[Run], workers: int, threads: int) -> Generator[Row]:
    """Run some of a sweep's runs; give the row of each when it has ended. A run that fails does not end the others.

    Jobs that several runs build on run once; where one fails, the runs that build on it fail with it.

    Args:
        sweep: the whole.
        runs: of it.
        workers: processes at a time.
        threads: of PyTorch in each.
    """
    plan, commit = sweep.plan(threads), source_commit()
    run_of = {run.job.name: run for run in runs}
    jobs = {job.name: job for run in run_of.values() for job in run.jobs}
    broken: dict[str, str] = {}  # jobs that failed, or could not begin -> why
    unstarted: list[Run] = []

    def begin(job: Job) -> Started | None:
        run = run_of.get(job.name)
        if cause := next((broken[name] for name in job.needs if name in broken), None):
            broken[job.name] = cause
            if run is not None:
                _write_end(plan, job, run_digest(plan, run), commit, error=cause)
                unstarted.append(run)
            return None
        if run is not None:
            return start_job(plan, job, run_digest(plan, run), quiet=True)
        digest = job_digest(plan, job)
        return None if _is_done(plan, job, digest) else start_job(plan, job, digest, quiet=True)

    with closing(execute(list(jobs.values()), workers, begin)) as ended:
        for one in ended:
            while unstarted:
                yield read_row(sweep, unstarted.pop(0))
            if one.job.name in run_of:
                _record(plan, one, commit)
                yield read_row(sweep, run_of[one.job.name])
            elif error := _end_shared(plan, one):
                broken[one.job.name] = f"its job '{one.job.name}' failed: {error}"
    while unstarted:
        yield read_row(sweep, unstarted.pop(0))


def _end_shared(plan: Recipe, one: Started) -> str:
    """Write down how a job ended that runs build on; why it failed, empty if it did not."""
    if code := exit_code(one.process.returncode):
        print(f"{one.job.name}: failed", flush=True)
        return redact_text(f"code {code}: {_last_lines(plan.folder(one.job) / LOG)}")
    if missing := _gone(plan, one.job):
        return f"it left no '{missing[0]}'; give its ModelCheckpoint `save_last: true`"
    took = time.monotonic() - one.since
    write_json(status_path(plan, one.job), read_status(plan, one.job) | {"finished": time.time(), "seconds": took})
    print(f"{one.job.name}: done in {took:.0f} s", flush=True)
    return ""


def _record(plan: Recipe, one: Started, commit: str) -> None:
    """Write down how a run ended."""
    if code := exit_code(one.process.returncode):
        error = redact_text(f"code {code}: {_last_lines(plan.folder(one.job) / LOG)}")
        _write_end(plan, one.job, one.digest, commit, error=error)
    else:
        _write_end(plan, one.job, one.digest, commit, finished=time.time(), seconds=time.monotonic() - one.since)


def _write_end(plan: Recipe, job: Job, digest: str, commit: str, **how: Any) -> None:
    status = {"digest": digest, "finished": None, "version": __version__, "commit": commit, **how}
    write_json(status_path(plan, job), status)


def _last_lines(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    if lines and lines[-1].startswith("error: "):
        return clip(lines[-1], _ERROR_LENGTH)
    return clip(" | ".join(lines[-_ERROR_LINES:]), _ERROR_LENGTH)
