"""Folders of recipes, whatever the task: seeds, jobs, seconds, command, configurations, curves; package versions.

A job's folder lies in the recipe's folder itself, or in ``seed_<n>`` where the recipe runs with several seeds.
"""

import math
import platform
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lit_narrative.errors import UserError
from lit_narrative.files import read_table
from lit_narrative.report.records import read_record

PACKAGES = (
    "lit-narrative",
    "torch",
    "lightning",
    "transformers",
    "peft",
    "transformer-lens",
    "sae-lens",
    "scikit-learn",
    "numpy",
)
"""Packages whose release can change the figures."""
Curve = tuple[tuple[float, float], ...]
"""Points (step, value) by ascending step; only finite values."""


@dataclass(frozen=True, slots=True)
class SeedFolder:
    """The folder of one seed's jobs.

    Attributes:
        path: ``seed_<n>``, or the recipe's folder itself.
        name: what pages call it: ``seed <n>``, or ``this run``.
        prefix: of its jobs' names in the recipe: ``seed_<n>/``, or empty.
        seconds: how long each finished job took, in the order in which the jobs finished; empty where the jobs were
            started by hand.
    """

    path: Path
    name: str
    prefix: str
    seconds: Mapping[str, float]

    def in_order(self, jobs: Iterable[Path]) -> list[Path]:
        """Put the folders of jobs in the order in which they finished; the others come last, by name."""
        rank = {name: index for index, name in enumerate(self.seconds)}
        return sorted(jobs, key=lambda job: (rank.get(job.name, len(rank)), job.name))


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A recipe's folder.

    Attributes:
        out: the folder.
        seeds: the folders of its seeds, at least one; the folder itself where it has no ``seed_<n>``.
        command: that made it; empty where the jobs were started by hand.
    """

    out: Path
    seeds: tuple[SeedFolder, ...] = ()
    command: str = ""

    @property
    def seconds(self) -> dict[str, float]:
        """How long each job took, by ``<job>``, or by ``seed_<n>/<job>`` where there are several seeds."""
        return {seed.prefix + job: value for seed in self.seeds for job, value in seed.seconds.items()}


def read_run_folder(out: Path, holding: str) -> RunFolder:
    """Read what is in a recipe's folder.

    Args:
        out: the folder.
        holding: pattern of the files that a seed's folder must have to count, such as ``*/eval/test.json``: a seed
            whose jobs have not come so far is left out.

    Raises:
        UserError: there is no such folder, or a job's status is not what it should be.
    """
    if not out.is_dir():
        raise UserError(f"there is no folder '{out}': give the out folder of a recipe, such as runs/storyworld")
    numbered = [(path.name.removeprefix("seed_"), path) for path in out.glob("seed_*") if path.is_dir()]
    # By number: as text, seed_10 would come before seed_9.
    seeds = [path for _, path in sorted((int(n), path) for n, path in numbered if n.isdecimal())]
    # Of several seeds, one may still be training: the page is made of the others.
    ready = [path for path in seeds if any(path.glob(holding))]
    numbers = [path.name.removeprefix("seed_") for path in ready]
    folders = [SeedFolder(path, path.name.replace("_", " "), f"{path.name}/", read_seconds(path)) for path in ready]
    return RunFolder(
        out, tuple(folders) or (SeedFolder(out, "this run", "", read_seconds(out)),), read_command(out, numbers)
    )


def read_seconds(folder: Path) -> dict[str, float]:
    """Read how many seconds each finished job took, from the status that ``lit-narrative run`` leaves in its folder.

    Returns:
        Seconds by job, in the order in which the jobs finished.
    """
    statuses = [(path.parent.name, read_record(path)) for path in sorted(folder.glob("*/job.json"))]
    finished = [
        (status.number("finished"), name, status) for name, status in statuses if status.maybe("finished") is not None
    ]
    # By name where two finished at the same moment, so that the same folder gives the same page.
    return {name: status.number("seconds") for _, name, status in sorted(finished, key=lambda entry: entry[:2])}


def recipe_note(out: Path) -> Path | None:
    """Return ``recipe.json``, in which ``lit-narrative run`` notes what it was asked for; None if it is not there.

    A seed's folder has no such file of its own: the note of the recipe's folder, in which it lies, counts for it.
    """
    folders = (out, out.parent) if out.name.startswith("seed_") else (out,)
    return next((folder / "recipe.json" for folder in folders if (folder / "recipe.json").is_file()), None)


def read_command(out: Path, seeds: Sequence[str] = ()) -> str:
    """Read which command made a recipe's folder, or the jobs of one seed in it.

    Args:
        out: the folder.
        seeds: that are in it, if it has several; else those noted.

    Returns:
        The command; empty where the jobs were started by hand.
    """
    path = recipe_note(out)
    if path is None:
        return ""
    note = read_record(path)
    given = [*seeds] or [str(seed) for seed in note.items("seeds")]
    if path.parent != out:
        given = [out.name.removeprefix("seed_")]
    changes = [word for change in note.items("set") for word in ("--set", str(change))]
    words = ["lit-narrative", "run", note.text("recipe"), "--out", str(path.parent)]
    return shlex.join([*words, *(["--seed", *given] if given else []), *changes])


def read_config(job: Path) -> str | None:
    """Read a job's settings as YAML text; None where none were kept."""
    path = job / "config.yaml"
    return path.read_text(encoding="utf-8") if path.is_file() else None


def read_curves(path: Path) -> dict[str, Curve]:
    """Read the table of a job's metrics: one curve a column, over the column ``step``.

    Empty cells and values that are not finite are left out, for they cannot be drawn.

    Raises:
        UserError: a cell is not a number, or the column ``step`` is missing.
    """
    points: dict[str, list[tuple[float, float]]] = {}
    for row in read_table(path):
        step = read_cell(path, "step", row.pop("step", None))
        for name, cell in row.items():
            value = read_cell(path, name, cell)
            if math.isfinite(value):
                points.setdefault(name, []).append((step, value))
    return {name: tuple(sorted(curve, key=lambda point: point[0])) for name, curve in points.items()}


def read_cell(path: Path, column: str, cell: str | None) -> float:
    """Return the number in a cell of a table.

    Raises:
        UserError: it is not a number; the message names the file and the column.
    """
    try:
        return float(cell or "")
    except ValueError as error:
        raise UserError(f"{path}: column '{column}' holds {cell!r}, which is not a number") from error


def versions() -> dict[str, str]:
    """Return name -> installed version of the packages that matter and of Python, for pages, manifests and headers."""
    return {**{name: _installed(name) for name in PACKAGES}, "python": platform.python_version()}


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # a checkout on PYTHONPATH has no metadata
        return "not installed"
