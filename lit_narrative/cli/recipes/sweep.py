"""A sweep: what its file says, and the runs that come of it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from lit_narrative.cli.recipes.process import sweep_path
from lit_narrative.cli.recipes.recipe import Job, Recipe, read_checked, references, seeded
from lit_narrative.errors import UserError, check_choice, did_you_mean
from lit_narrative.files import write_text
from lit_narrative.lookup import find_config
from lit_narrative.redaction import redact

RAW = "raw"
"""Folder of the runs' folders, in the sweep's."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a sweep.

    Attributes:
        key: its name, and that of its folder.
        values: axis -> its value; several where runs would have been the same.
        seed: of the run; None: what the configuration says.
        prompts: how many it is asked; None: what the configuration says.
        job: the command.
    """

    key: str
    values: Mapping[str, tuple[str, ...]]
    seed: int | None
    prompts: int | None
    job: Job


@dataclass(frozen=True, slots=True)
class Sweep:
    """Runs of one command under every combination of settings.

    Attributes:
        path: the file.
        out: folder of the tables; the runs' folders are in ``raw``.
        command: ``fit``, ``validate``, ``test`` or ``predict``.
        axes: axis -> names of its values, in order.
        runs: in order; no two have the same settings.
        duplicates: combinations that are not run, since another has the same settings.
        baseline: axis and value that the others are compared with.
        metrics: name in the tables -> name as logged, of those that come first.
    """

    path: Path
    out: Path
    command: str
    axes: Mapping[str, tuple[str, ...]]
    runs: tuple[Run, ...]
    duplicates: int
    baseline: tuple[str, str] | None
    metrics: Mapping[str, str]

    def plan(self, threads: int | None = None) -> Recipe:
        """The same runs as jobs of a recipe."""
        return Recipe(self.out, tuple(run.job for run in self.runs), threads)

    def find(self, key: str) -> Run:
        """The run of a key.

        Raises:
            UserError: there is none; naming the nearest.
        """
        runs = {run.key: run for run in self.runs}
        if key not in runs:
            first = next(iter(runs))
            raise UserError(f"--only {key}: {self.path} has no such run{did_you_mean(key, runs)} (such as '{first}')")
        return runs[key]


def read_sweep(name: str, *, out: str | None = None, changes: Sequence[str] = (), metrics: Sequence[str] = ()) -> Sweep:
    """Read a sweep and check it whole.

    Args:
        name: a file, or a shipped sweep.
        out: folder of the sweep, in place of the file's.
        changes: ``SETTING=VALUE``, over the settings of every run.
        metrics: as logged, or as the file calls them, in place of its ``metrics``.

    Raises:
        UserError: something is wrong; it names the file and the position in it.
    """
    path = find_config(name, within="sweeps")
    content = read_checked(path, "sweep")
    # YAML reads a bare `2` or `no` as a number or a truth value; names of values are texts.
    content["axes"] = {
        str(axis): {str(name): settings for name, settings in values.items()}
        for axis, values in content["axes"].items()
    }
    axes = {axis: tuple(values) for axis, values in content["axes"].items()}
    if taken := [axis for axis in axes if axis in OWN_COLUMNS]:
        raise UserError(f"{path}: axes.{taken[0]}: the tables have a column of that name; call the axis otherwise")
    named = content.get("metrics", {})
    names = named if isinstance(named, dict) else {name: name for name in named}
    content["metrics"] = {name: names.get(name, name) for name in metrics} if metrics else names
    logged = list(content["metrics"].values())
    if twice := [name for name in logged if logged.count(name) > 1]:
        raise UserError(f"{path}: metrics: '{twice[0]}' is there under two names; keep one")
    content["overrides"] = content.get("overrides", {})
    try:
        grid = list(_grid(content, dict(map(_change, changes))))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    runs = _distinct(grid)
    baseline = next(iter(content.get("baseline", {}).items()), None)
    _check_baseline(path, baseline, axes)
    return Sweep(
        path=path,
        out=Path(out or content["out"]),
        command=content.get("command", "test"),
        axes=axes,
        runs=runs,
        duplicates=len(grid) - len(runs),
        baseline=baseline,
        metrics=content["metrics"],
    )


def _check_baseline(path: Path, baseline: tuple[str, str] | None, axes: Mapping[str, Sequence[str]]) -> None:
    if baseline is None:
        return
    axis, value = baseline
    check_choice(f"{path}: baseline, an axis", axis, axes)
    check_choice(f"{path}: baseline.{axis}", value, axes[axis])


def _change(change: str) -> tuple[str, str]:
    setting, equals, value = change.partition("=")
    if not (equals and setting):
        raise UserError(f"--set {change}: write SETTING=VALUE, such as trainer.max_epochs=1")
    return setting, value


def _grid(content: Mapping[str, Any], changes: dict[str, str]) -> Iterator[Run]:
    """Every combination, the seeds innermost."""
    names = content["config"]
    configs = tuple(find_config(name) for name in ([names] if isinstance(names, str) else names))
    prompts = content.get("prompts", {"setting": "", "values": [None]})
    for values in product(*(axis.items() for axis in content["axes"].values())):
        for count, seed in product(prompts["values"], content.get("seeds", [None])):
            overrides = dict(content["overrides"])
            for _, settings in values:
                overrides |= settings or {}
            overrides |= ({} if count is None else {prompts["setting"]: count}) | changes
            _check_references(overrides)
            parts = [name for name, _ in values]
            parts += [f"{letter}{number}" for letter, number in (("n", count), ("s", seed)) if number is not None]
            key = "__".join(parts)
            job = seeded(Job(f"{RAW}/{key}", content.get("command", "test"), configs, overrides), seed)
            labels = {axis: (name,) for axis, (name, _) in zip(content["axes"], values, strict=True)}
            yield Run(key, labels, seed, count, job)


def _check_references(overrides: Mapping[str, Any]) -> None:
    for setting, value in overrides.items():
        for reference in references(value):
            if reference not in {"out", "seed"}:
                raise UserError(f"{setting}: '${{{reference}}}' is none of ${{out}}, ${{seed}}")


def _distinct(grid: Sequence[Run]) -> tuple[Run, ...]:
    """One run for each set of settings, under the first key that has it, with the values of all."""
    same: dict[str, list[Run]] = {}
    for run in grid:
        # An arm that sets the model has the same settings under every model: it runs once, and does not count twice.
        settings = json.dumps([dict(run.job.overrides), run.seed], sort_keys=True)
        same.setdefault(settings, []).append(run)
    return tuple(_joined(runs) for runs in same.values())


def _joined(runs: Sequence[Run]) -> Run:
    first = runs[0]
    values = {axis: tuple(dict.fromkeys(run.values[axis][0] for run in runs)) for axis in first.values}
    return Run(first.key, values, first.seed, first.prompts, first.job)


SWEEP_PAGE = "sweep.html"
"""The page on all of a sweep; a recipe that ends in one may have a ``report.html`` beside it."""
OWN_COLUMNS = ("seed", "num_prompts", "num_samples", "status", "error", "seconds", "digest", "version", "commit")
"""Columns of every table of runs, between those of the axes and of the metrics."""


def write_sweep(plan: Recipe, job: Job) -> Path:
    """Write the sweep of a recipe with the recipe's seeds, its folder and the job's overrides, and check it whole.

    Args:
        plan: the recipe.
        job: a ``sweep`` of it.

    Raises:
        UserError: something is wrong with the sweep; it names the file and the position in it.
    """
    content = read_checked(job.configs[0], "sweep")
    content["out"] = str(plan.out)
    content["overrides"] = content.get("overrides", {}) | plan.resolve(job.overrides)
    if redact(content) != content:
        raise UserError(
            f"job '{job.name}': a setting of the sweep holds a key, which would be written to "
            f"'{sweep_path(plan, job)}'; give it by the environment"
        )
    if plan.seeds:
        content["seeds"] = list(plan.seeds)
    # A file of its own, so that `lit-narrative sweep` resumes and collects it without the recipe.
    path = write_text(sweep_path(plan, job), yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    read_sweep(str(path))
    return path
