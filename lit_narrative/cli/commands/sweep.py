"""``lit-narrative sweep``: one command under every combination of settings, and tables of what came of it."""

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import replace

import yaml

from lit_narrative.cli.folder import locked
from lit_narrative.cli.names import check_names
from lit_narrative.cli.recipes.meter import pipe_of_recipe
from lit_narrative.cli.recipes.process import arguments
from lit_narrative.cli.recipes.results import DONE, FAILED, Row, master_table, metric_names, read_row, shown_metrics
from lit_narrative.cli.recipes.runner import run_sweep
from lit_narrative.cli.recipes.sweep import SWEEP_PAGE, Ablation, Run, Sweep, read_sweep
from lit_narrative.errors import UserError, check_least
from lit_narrative.files import write_json, write_text
from lit_narrative.report.format import one_line


def sweep(
    sweep: str,
    out: str | None = None,
    workers: int = 1,
    only: str | None = None,
    set: Sequence[str] = (),
    collect: bool = False,
    metrics: Sequence[str] = (),
    wandb: str | None = None,
) -> None:
    """Run a sweep: a command under every combination of settings, each run in a process of its own.

    A run that is done is left out the next time, unless its settings have changed. A run that fails is recorded, and
    the others still run. What comes of it is printed as a table, and left as ``sweep.html`` (all runs side by side),
    ``by_model/*/report.html`` (where there are several axes), ``analysis_summary.csv`` and ``master_results.csv``.

    Args:
        sweep: a file, or the name of a shipped sweep.
        out: folder of the sweep, in place of the file's.
        workers: runs at a time, each with its share of the cores.
        only: the key of one run, to run that alone.
        set: ``SETTING=VALUE``, over the settings of every run; may be given several times.
        collect: make the tables of what is there, and run nothing.
        metrics: columns of the summary, the pages and the printed table, as logged, in place of the file's ``metrics``;
            if neither names any, the main ones.
        wandb: write a configuration for the W&B sweeper to this file, and run nothing.

    Raises:
        UserError: the sweep, or what it names, is wrong.
        SystemExit: with code 1, a run failed; with another, it was interrupted.
    """
    check_least("--workers", workers, 1)
    if sum((only is not None, collect, wandb is not None)) > 1:
        raise UserError("--only, --collect and --wandb exclude each other: give one of them")
    whole = read_sweep(sweep, out=out, changes=set, metrics=metrics)
    if wandb is not None:
        print(f"W&B sweep: {write_text(wandb, sweep_configuration(whole, set))}")
        return
    runs = [whole.find(only)] if only is not None else [] if collect else list(whole.runs)
    try:
        _run(whole, runs, workers)
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    rows = write_tables(whole)
    if only is not None:
        log_to_wandb(next(row for row in rows if row.key == only))
    keys = {run.key for run in runs}
    if failed := [row.key for row in rows if row.status == FAILED and row.key in keys]:
        print(f"error: {len(failed)} of {len(runs)} runs failed: {', '.join(failed)}", file=sys.stderr)
        raise SystemExit(1)


def _run(whole: Sweep, runs: Sequence[Run], workers: int) -> None:
    """Run what is not done yet, with a line for each and the table of runs after each."""
    rows = {run.key: read_row(whole, run) for run in whole.runs}
    waiting = [run for run in runs if rows[run.key].status != DONE]
    _check_names(whole, waiting)
    same = (
        f" ({whole.duplicates} combinations duplicate another's settings and are not run)" if whole.duplicates else ""
    )
    if runs:
        print(f"{len(whole.runs)} runs{same}: {len(runs) - len(waiting)} done before, {len(waiting)} to do", flush=True)
    threads = max((os.cpu_count() or 1) // workers, 1)
    if recipe := pipe_of_recipe():
        recipe.begin()
    with ExitStack() as locks, closing(run_sweep(whole, waiting, workers, threads)) as ended:
        for run in waiting:  # and not the folder: agents on other machines run other combinations there
            locks.enter_context(locked(whole.out, f"sweep-{run.job.name.replace('/', '-')}"))
        for number, row in enumerate(ended, 1):
            message = f"done in {row.seconds:.0f} s" if row.seconds is not None else f"{row.status}: {row.error}"
            print(f"[{number}/{len(waiting)}] {row.key}: {message}", flush=True)
            if recipe:
                recipe.tell("", number, len(waiting), "run")
            rows[row.key] = row
            _write_master(whole, list(rows.values()))


def _check_names(whole: Sweep, runs: Sequence[Run]) -> None:
    """Check the names of the settings before the first run.

    Raises:
        UserError: there is no such setting; naming a run that has it.
    """
    plan = whole.plan()
    jobs = {(job.command, job.configs, *job.overrides): (run, job) for run in runs for job in run.jobs}
    for run, job in jobs.values():  # the same names once
        try:
            check_names(job.command, arguments(plan, job)[1:])
        except UserError as error:
            raise UserError(f"run '{run.key}': {error}") from error


def _write_master(whole: Sweep, rows: Sequence[Row]) -> None:
    write_text(whole.out / "master_results.csv", master_table(rows, metric_names(rows, whole.metrics)))


def write_tables(whole: Sweep) -> list[Row]:
    """Write every table and page of what is there; return the rows."""
    from lit_narrative.cli.recipes.page import SweepView, build_sweep_page
    from lit_narrative.cli.recipes.statistics import group_rows, summary_table, text_table

    rows = [read_row(whole, run) for run in whole.runs]  # agents elsewhere may have added some
    _write_master(whole, rows)
    metrics = metric_names(rows, whole.metrics)
    shown = shown_metrics(metrics, whole.metrics)
    groups = group_rows(rows, shown, whole.baseline)
    # Without a choice of columns the summary has them all, as the table of runs does.
    asked = shown if whole.metrics else metrics
    write_text(whole.out / "analysis_summary.csv", summary_table(group_rows(rows, asked, whole.baseline), asked))
    view = SweepView(whole.path.stem, "", "", groups, shown, whole.baseline, len(metrics) - len(shown))
    write_text(whole.out / SWEEP_PAGE, build_sweep_page(view))
    first, values = next(iter(whole.axes.items()))
    for value in values if len(whole.axes) > 1 else ():  # of a single axis each would have one group
        members = [group for group in groups if value in group.values[first]]
        page = build_sweep_page(replace(view, axis=first, value=value, groups=members))
        write_text(whole.out / "by_model" / value / "report.html", page)
    done = sum(row.status == DONE for row in rows)
    if done and (unknown := [logged for name, logged in whole.metrics.items() if name not in metrics]):
        print(f"logged by no run: {', '.join(unknown)} (metrics of {whole.path})")
    print_text(text_table(groups, shown))
    if whole.ablation:
        _write_ablation(whole, whole.ablation, rows)
    print(f"{done} of {len(rows)} runs are done; page: {whole.out / SWEEP_PAGE}; tables: {whole.out}")
    return rows


def _write_ablation(whole: Sweep, ablation: Ablation, rows: Sequence[Row]) -> None:
    """Write the page and the record of what is on trial, and print them."""
    from lit_narrative.cli.recipes.ablation import ABLATION_PAGE, ablation_record, ablation_text, build_ablation_page
    from lit_narrative.cli.recipes.statistics import group_rows

    record = ablation_record(ablation, group_rows(rows, list(ablation.margins), None))
    write_json(whole.out / "ablation.json", record)
    print_text(ablation_text(record))
    print(f"page: {write_text(whole.out / ABLATION_PAGE, build_ablation_page(whole.path.stem, record))}")


def print_text(text: str) -> None:
    """Print a text line by line, without what a terminal would obey."""
    print("\n".join(map(one_line, text.splitlines())))


# --- W&B sweeper ------------------------------------------------------------------------------------------------------


def sweep_configuration(sweep: Sweep, changes: Sequence[str] = ()) -> str:
    """What ``wandb sweep`` reads: a grid over the keys of the runs, each by ``lit-narrative sweep --only``.

    Args:
        sweep: the whole.
        changes: ``--set`` of every run.
    """
    command = ["lit-narrative", "sweep", str(sweep.path.resolve()), f"--out={sweep.out.resolve()}"]
    command += [f"--set={change}" for change in changes]
    content = {
        "name": sweep.path.stem,
        "program": "lit-narrative",
        "method": "grid",
        "command": ["${env}", *command, "${args}"],
        "parameters": {"only": {"values": [run.key for run in sweep.runs]}},
    }
    return yaml.safe_dump(content, sort_keys=False)


def log_to_wandb(row: Row) -> None:
    """Tell the sweeper of a run; nothing where none of its agents started this process."""
    if "WANDB_SWEEP_ID" not in os.environ:
        return
    import wandb

    with wandb.init(config={"key": row.key, "seed": row.seed, "num_prompts": row.num_prompts}) as run:
        run.log(dict(row.metrics))
        run.summary["status"] = row.status
        if row.status == FAILED:
            run.summary["error"] = row.error
