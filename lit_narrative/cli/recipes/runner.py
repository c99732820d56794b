"""``lit-narrative run``: the jobs of a recipe, what is done already left out."""

import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lit_narrative import __version__
from lit_narrative.cli.recipes.process import (
    LOG,
    Process,
    Started,
    ending,
    exit_code,
    job_digest,
    read_stamp,
    resumes_from,
    source_commit,
    stamp_path,
    start_job,
)
from lit_narrative.cli.recipes.recipe import Job, Recipe, references
from lit_narrative.cli.recipes.results import Row, read_row, run_digest
from lit_narrative.cli.recipes.sweep import Run, Sweep
from lit_narrative.errors import UserError
from lit_narrative.files import write_json
from lit_narrative.report.format import clip

_POLL = 0.1


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


_ERROR_LINES, _ERROR_LENGTH = 4, 500


def run_all(sweep: Sweep, runs: Sequence[Run], workers: int, threads: int) -> Iterator[Row]:
    """Run what is not done yet; give the row of each when it has ended.

    Args:
        sweep: the whole.
        runs: of it.
        workers: processes at a time.
        threads: of PyTorch in each.
    """
    plan, commit = sweep.plan(threads), source_commit()
    waiting = deque(runs)
    started: dict[str, Started] = {}
    processes: list[Process] = []
    with ending(processes):
        while waiting or started:
            while waiting and len(started) < workers:
                run = waiting.popleft()
                started[run.key] = start_job(plan, run.job, run_digest(plan, run), quiet=True)
                processes.append(started[run.key].process)
            time.sleep(_POLL)
            for key in [key for key, one in started.items() if one.process.poll() is not None]:
                _record(plan, started.pop(key), commit)
                yield read_row(sweep, sweep.find(key))


def _record(plan: Recipe, one: Started, commit: str) -> None:
    """Write down how a run ended."""
    stamp: dict[str, Any] = {"digest": one.digest, "finished": None, "version": __version__, "commit": commit}
    if code := exit_code(one.process.returncode):
        stamp["error"] = f"code {code}: {_last_lines(plan.folder(one.job) / LOG)}"
    else:
        stamp |= {"finished": time.time(), "seconds": time.monotonic() - one.since}
    write_json(stamp_path(plan, one.job), stamp)


def _last_lines(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    if lines and lines[-1].startswith("error: "):
        return clip(lines[-1], _ERROR_LENGTH)
    return clip(" | ".join(lines[-_ERROR_LINES:]), _ERROR_LENGTH)
