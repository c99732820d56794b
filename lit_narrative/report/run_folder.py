"""What every folder of a recipe holds: how long its jobs took, by which command, with what versions, their curves."""

import csv
import math
import platform
import shlex
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lit_narrative.errors import UserError
from lit_narrative.report.records import read_record


def read_stamps(folder: Path) -> dict[str, float]:
    """Read how many seconds each finished job of a recipe took, from the stamps that ``lit-narrative run`` leaves.

    Returns:
        Seconds by job, in the order in which the jobs finished; empty where the jobs were started by hand.
    """
    stamps = [(path.parent.name, read_record(path)) for path in sorted(folder.glob("*/job.json"))]
    finished = [
        (stamp.number("finished"), name, stamp) for name, stamp in stamps if stamp.maybe("finished") is not None
    ]
    return {name: stamp.number("seconds") for _, name, stamp in sorted(finished, key=lambda entry: entry[:2])}


def read_command(out: Path, seeds: Sequence[str] = ()) -> str:
    """Read which command made a recipe's folder, as ``lit-narrative run`` has noted it.

    Args:
        out: the folder.
        seeds: that are in it, if it says; else those noted.

    Returns:
        The command; empty where the jobs were started by hand.
    """
    if not (out / "recipe.json").is_file():
        return ""
    noted = read_record(out / "recipe.json")
    given = [*seeds] or [str(seed) for seed in noted.items("seeds")]
    changes = [word for change in noted.items("set") for word in ("--set", str(change))]
    words = ["lit-narrative", "run", noted.text("recipe"), "--out", str(out)]
    return shlex.join([*words, *(["--seed", *given] if given else []), *changes])


Curve = tuple[tuple[float, float], ...]
"""Points (step, value) by ascending step; only finite values."""


def read_curves(path: Path) -> dict[str, Curve]:
    """Read the table of Lightning's ``CSVLogger``: one curve a column, over the column ``step``.

    Empty cells and values that are not finite are left out, for they have no place on a chart.

    Raises:
        UserError: a cell is not a number, or the column ``step`` is missing.
    """
    points: dict[str, list[tuple[float, float]]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            step = _cell(path, "step", row.get("step"))
            for name, cell in row.items():
                value = _cell(path, name, cell) if cell else math.nan
                if math.isfinite(value) and name != "step":
                    points.setdefault(name, []).append((step, value))
    return {name: tuple(sorted(curve, key=lambda point: point[0])) for name, curve in points.items()}


def _cell(path: Path, column: str, cell: str | None) -> float:
    try:
        return float(cell or "")
    except ValueError as error:
        raise UserError(f"{path}: column '{column}' holds {cell!r}, which is not a number") from error


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
CONFIG = 30_000
"""Characters of a configuration that a page shows."""
COMMAND = 2_000
"""Characters of the command that made a run."""


def versions() -> dict[str, str]:
    """Return name -> installed version of Python and of the packages that matter, for pages, manifests and headers."""
    return {"python": platform.python_version(), **{name: _installed(name) for name in PACKAGES}}


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # a checkout on PYTHONPATH has no metadata
        return "not installed"
