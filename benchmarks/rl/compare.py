"""Alternating rounds of the two sides, each in a separate process, and what came out as tables."""

import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.rl.clock import PARTS, Round, Step
from benchmarks.rl.shape import Shape
from benchmarks.rounds import alternate, print_markdown, print_table, ratios

ROOT = Path(__file__).parents[2]
SIDES = ("ours", "theirs")
PRODUCTS = "products"
"""The bare products, a third side where the model is a pretrained one."""
Rows = list[list[str]]


def measure(job: str, shape: Shape, rounds: int) -> list[list[Round]]:
    """Rounds of ours and of TRL's; on a pretrained model of the bare products too."""
    sides = (*SIDES, PRODUCTS) if shape.model else SIDES
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run_worker("files", job, shape, folder)

        def side(which: str) -> Callable[[int], Round]:
            return lambda number: run_worker(which, job, shape, folder, f"round {number} of {rounds}: {which}")

        return alternate([side(which) for which in sides], rounds)


def run_worker(side: str, job: str, shape: Shape, folder: Path, note: str = "") -> Round:
    """One side in a separate process. This one stays small: a child's peak memory starts at its parent's."""
    if note:
        print(note, file=sys.stderr)
    out = folder / "round.json"
    out.write_text('{"imported": 0, "versions": {}}', encoding="utf-8")
    command = [sys.executable, "-m", "benchmarks.rl.worker", side, job, json.dumps(shape.as_dict())]
    quiet = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TOKENIZERS_PARALLELISM": "false"}
    env = {**os.environ, **quiet, "OMP_NUM_THREADS": str(shape.threads)}
    if shape.device == "cpu":
        env["CUDA_VISIBLE_DEVICES"] = ""
    done = subprocess.run([*command, folder, out], cwd=ROOT, env=env, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{side} failed with code {done.returncode}:\n{done.stderr[-4000:]}")
    values = json.loads(out.read_text(encoding="utf-8"))
    return Round(**{**values, "steps": [Step(**step) for step in values.get("steps", [])]})


def costs(ours: Sequence[Round], theirs: Sequence[Round]) -> Rows:
    """Rows of the main table. The ratio is the median of the rounds' ratios, above 1 in our favour, with its range."""

    def row(name: str, digits: int, value: Callable[[Round], float], better: str = "") -> list[str]:
        a, b = ([value(measured) for measured in side] for side in (ours, theirs))
        ratio = ""
        if better:
            each = ratios(b, a) if better == "less" else ratios(a, b)
            ratio = f"{median(each):.2f} ({min(each):.2f}–{max(each):.2f})"
        return [name, f"{median(a):.{digits}f}", f"{median(b):.{digits}f}", ratio]

    def per_step(read: Callable[[Step], float]) -> Callable[[Round], float]:
        return lambda measured: median(read(step) for step in measured.steps)

    return [
        row("CPU seconds a step", 2, per_step(lambda step: step.cpu), "less"),
        row("of it in the kernel", 2, per_step(lambda step: step.kernel)),
        row("wall seconds a step", 2, per_step(lambda step: step.wall), "less"),
        row("tokens a CPU second", 0, per_step(lambda step: step.tokens / step.cpu), "more"),
        row("peak memory, MiB", 0, lambda measured: measured.peak, "less"),
        row("of it after the imports", 0, lambda measured: measured.imported),
    ]


def floor(ours: Sequence[Round], theirs: Sequence[Round], products: Sequence[Round]) -> str:
    """How much of the CPU time of a step the bare products are."""
    a, b, bare = ([median(step.cpu for step in each.steps) for each in side] for side in (ours, theirs, products))
    shares = [f"{median(ratios(bare, side)):.0%} of a step of {name}" for name, side in (("ours", a), ("TRL", b))]
    return f"The bare matrix products take {median(bare):.2f} CPU seconds: {' and '.join(shares)}."


def breakdown(ours: Sequence[Round], theirs: Sequence[Round]) -> Rows:
    """CPU seconds and per cent of each part, medians over all steps."""
    names = [name for name in PARTS if any(step.parts.get(name) for side in (ours, theirs) for step in steps(side))]
    return [[name, *_part(ours, name), *_part(theirs, name)] for name in names]


def _part(side: Sequence[Round], name: str) -> tuple[str, str]:
    seconds = median(step.parts.get(name, 0.0) for step in steps(side))
    share = median(step.parts.get(name, 0.0) / step.cpu for step in steps(side))
    return f"{seconds:.3f}", f"{share:.1%}"


def steps(side: Sequence[Round]) -> list[Step]:
    """All measured steps."""
    return [step for measured in side for step in measured.steps]


def machine(shape: Shape, *sides: Sequence[Round]) -> str:
    """Where it ran and with what."""
    versions = {name: version for side in sides for name, version in side[0].versions.items()}
    known = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    cores = f"{os.cpu_count()} CPU cores ({platform.machine()}), {shape.threads} thread(s)"
    return f"{cores}; Python {platform.python_version()}, {known}"


def show(command: Sequence[str], shape: Shape, sides: Sequence[Sequence[Round]], markdown: bool) -> None:
    """Print both tables."""
    ours, theirs = sides[:2]
    table = print_markdown if markdown else print_table
    counted = f"{len(ours)} rounds of {shape.steps} measured steps a side, alternating, each in a separate process"
    where = f"{counted}; {machine(shape, ours, theirs)}."
    print(f"`{shlex.join(command)}`\n\n{where}\n" if markdown else where)
    table(["", "ours", "TRL", "ratio (range)"], costs(ours, theirs))
    print()
    table(["CPU seconds of a step", "ours", "share", "TRL", "share"], breakdown(ours, theirs))
    if shape.model:
        print(f"\n{floor(*sides)}")


def as_json(command: Sequence[str], shape: Shape, sides: Sequence[Sequence[Round]]) -> dict[str, Any]:
    """Everything that was measured."""
    rounds = {name: [r.as_dict() for r in side] for name, side in zip((*SIDES, PRODUCTS), sides, strict=False)}
    where = {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    return {"command": shlex.join(command), "shape": shape.as_dict(), "where": where, **rounds}
