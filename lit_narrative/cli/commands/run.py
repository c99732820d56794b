"""``lit-narrative run``: the jobs of a recipe, in order; a job that is done already is left out."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lit_narrative.cli.commands.report import find_function, find_learned, find_report
from lit_narrative.cli.faults import note_run_folder
from lit_narrative.cli.folder import locked
from lit_narrative.cli.recipes.meter import clock
from lit_narrative.cli.recipes.recipe import Recipe, find_jobs, read_recipe
from lit_narrative.cli.recipes.runner import run_recipe
from lit_narrative.cli.recipes.sweep import SWEEP_PAGE, write_sweep
from lit_narrative.errors import check_least
from lit_narrative.files import write_json
from lit_narrative.redaction import redact
from lit_narrative.report.format import one_line


def run(
    recipe: str,
    out: str | None = None,
    seed: Sequence[int] = (),
    set: Sequence[str] = (),
    workers: int | None = None,
    force: Sequence[str] = (),
) -> None:
    """Run a recipe: its jobs in order, each in a process of its own.

    The settings of all jobs are checked before the first one starts. A job that has finished is left out the next time,
    unless its settings, the modules of yours that they name, or the jobs that it builds on have changed.
    A fit that was interrupted resumes from its last checkpoint. ``recipe.json`` in ``out`` says what was asked for.

    Args:
        recipe: a file, or the name of a shipped recipe, such as ``storyworld``.
        out: folder of the jobs' folders, in place of the recipe's.
        seed: of every job, 0 or more, in place of the recipe's ``seed``; one or several in place of its ``seeds``.
        set: ``JOB.SETTING=VALUE``, over the settings of a job, or of every job as ``all.SETTING=VALUE``, for every
            seed; may be given several times.
        workers: jobs at a time, in place of the recipe's; a job waits for those that it refers to. With several, what
            a job prints goes to ``log.txt`` in its folder; in a terminal it does so with one too, and is shown.
        force: a job that runs anew even if it is done, and with it those that build on it: ``sft``, or ``seed_0/sft``
            of one seed; may be given several times.

    Raises:
        UserError: the recipe, or what it names, is wrong.
        SystemExit: a job failed; the code is the job's.
    """
    for number in seed:
        check_least("--seed", number, 0)
    check_least("--workers", workers, 1)
    plan = read_recipe(recipe, out=out, changes=set, seeds=seed)
    note_run_folder(plan.out)
    noted, forced = _report_of(plan), find_jobs(plan, force, "--force")
    with locked(plan.out, "run"):
        for job in plan.jobs:
            if job.command == "sweep":
                write_sweep(plan, job)
        # Before the jobs, since one of them may be the report, which says how to make the folder again.
        write_json(plan.out / "recipe.json", {"recipe": recipe, "seeds": plan.seeds, "set": redact(list(set)), **noted})
        seconds = run_recipe(replace(plan, workers=workers or plan.workers), forced)
    for line in _closing(plan, recipe, seconds, noted.get("report")):
        print(one_line(line))


def _closing(plan: Recipe, recipe: str, seconds: Mapping[str, float], report: str | None) -> list[str]:
    """What was learned, how long each job took, where the page is, and what to do next."""
    took = ", ".join(f"{name} {clock(taken)}" for name, taken in seconds.items())
    page = next((path for name in ("report.html", SWEEP_PAGE) if (path := plan.out / name).is_file()), None)
    again = "the same command with a change by --set runs again only what depends on it"
    lines = [f"took: {clock(sum(seconds.values()))} ({took})"]
    if page is None:
        return [*lines, f"results: {plan.out}", f"next: {again}"]
    lines.append(f"report: {page}")
    learned = find_learned(report) if report else None
    if learned is None:
        return [*lines, f"next: {again}"]
    other = f"lit-narrative run {shlex.quote(recipe)} --seed 1 --out {shlex.quote(f'{plan.out}_1')}"
    return [*learned(plan.out), *lines, f"next: look at that page; another seed: {other}"]


def _report_of(plan: Recipe) -> dict[str, Any]:
    """Return what ``recipe.json`` says of the recipe's report.

    Raises:
        UserError: it names a report or a section that there is not: better now than after hours of jobs.
    """
    noted: dict[str, Any] = {}
    for job in plan.jobs:
        if job.report:
            find_report(job.report)
            noted["report"] = job.report
        for path in job.sections:
            find_function(path, "section")
            noted["sections"] = list(job.sections)
    return noted
