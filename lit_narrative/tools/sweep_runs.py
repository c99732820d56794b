"""Running the runs of a sweep, several at a time, and reading what they left."""

import csv
import hashlib
import json
import re
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lit_narrative import __version__
from lit_narrative.files import write_json
from lit_narrative.report.sweep_rows import DONE, FAILED, MISSING, Row, Sample
from lit_narrative.report.wording import clip
from lit_narrative.tools.grid import Run, Sweep
from lit_narrative.tools.process import (
    LOG,
    Process,
    Started,
    ending,
    exit_code,
    job_digest,
    read_stamp,
    source_commit,
    stamp_path,
    start_job,
)
from lit_narrative.tools.recipe import Recipe, texts_in
from lit_narrative.tools.schema import read_yaml

_SPLITS = {"validate": "val", "test": "test", "predict": "predict"}
_ERROR_LINES, _ERROR_LENGTH = 4, 500
_POLL = 0.1
_QUOTED = re.compile(r"""(?<=['"])[^'"]+(?=['"])""")


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


def run_digest(plan: Recipe, run: Run) -> str:
    """Return a digest of what decides a run's result: its settings, and the files that they name, by size and date."""
    values = [*run.job.overrides.values(), *(read_yaml(config) for config in run.job.configs)]
    texts = {text for value in values for text in texts_in(value)}
    named = texts.union(*(_QUOTED.findall(text) for text in texts))  # LearnedReward(checkpoint='...') names one too
    files = {name: [_state(path) for path in _files(plan.resolve(name))] for name in sorted(named)}
    decides = [job_digest(plan, run.job), {name: states for name, states in files.items() if states}]
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def _files(name: str) -> list[Path]:
    """The file of a name, or the files of a model's folder; none if it is something else."""
    path = Path(name)
    try:
        if path.is_file():
            return [path]
        return sorted(part for part in path.iterdir() if part.is_file()) if (path / "config.json").is_file() else []
    except (OSError, ValueError):  # a text too long for a name, or with a null character
        return []


def _state(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def read_row(sweep: Sweep, run: Run) -> Row:
    """The row of a run, as it stands in its folder."""
    plan = sweep.plan()
    stamp, digest = read_stamp(plan, run.job), run_digest(plan, run)
    status = MISSING
    if stamp.get("digest") == digest:
        status = DONE if stamp.get("finished") else FAILED if "error" in stamp else MISSING
    done, folder = status == DONE, plan.folder(run.job)
    return Row(
        key=run.key,
        values=run.values,
        seed=run.seed,
        num_prompts=run.prompts,
        status=status,
        error=stamp["error"] if status == FAILED else "",
        seconds=stamp["seconds"] if done else None,
        digest=digest,
        version="" if status == MISSING else stamp["version"],
        commit="" if status == MISSING else stamp.get("commit", ""),
        metrics=_read_metrics(folder, sweep) if done else {},
        samples=_read_samples(folder, sweep) if done else (),
    )


def _read_metrics(folder: Path, sweep: Sweep) -> dict[str, float]:
    """The last value of every metric."""
    path = folder / ("metrics.csv" if sweep.command == "fit" else f"metrics_{sweep.command}.csv")
    if not path.is_file():
        return {}
    found: dict[str, float] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found |= {name: float(cell) for name, cell in row.items() if cell}
    return {_name(name, sweep): value for name, value in found.items() if name not in {"step", "epoch"}}


def _name(logged: str, sweep: Sweep) -> str:
    """What the tables call a metric: as the sweep says, or without ``test/``."""
    short = logged.removeprefix(f"{_SPLITS.get(sweep.command)}/")
    return next((name for name, wanted in sweep.metrics.items() if wanted in {logged, short}), short)


def _read_samples(folder: Path, sweep: Sweep) -> list[Sample]:
    path = folder / "samples" / f"{_SPLITS.get(sweep.command, 'val')}.jsonl"
    if not path.is_file():
        return []
    with path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [Sample(row["prompt"], row["text"], _scores(row, sweep)) for row in rows]


def _scores(row: dict[str, Any], sweep: Sweep) -> dict[str, float]:
    """What the verifiers said of a sample, under the names of the metrics that are their means."""
    logged = {"reward": row["reward"]} if "reward" in row else {}
    logged |= {f"components/{name}": value for name, value in row.get("components", {}).items()}
    return {_name(name, sweep): value for name, value in logged.items()}
