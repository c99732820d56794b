"""A sweep: what its file says, and the runs that come of it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from lit_narrative.cli.recipes.process import sweep_path
from lit_narrative.cli.recipes.recipe import Job, Recipe, jobs_with, read_checked, references, seeded, with_texts
from lit_narrative.errors import UserError, check_choice, did_you_mean
from lit_narrative.files import write_text
from lit_narrative.lookup import find_config
from lit_narrative.redaction import redact

RAW, SHARED = "raw", "shared"
"""Folders in the sweep's: of the runs' folders, and of the jobs that all runs of a seed build on."""
MEASURED = ("fit", "validate", "test", "predict")
"""Commands that leave metrics."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a sweep.

    Attributes:
        key: its name, and that of its folder.
        values: axis -> its value; several where runs would have been the same.
        seed: of the run; None: what the configuration says.
        prompts: how many it is asked; None: what the configuration says.
        job: the command; of a sweep over a recipe the job that is measured.
        before: the jobs of the recipe that it builds on, in order; runs that build on the same share one.
    """

    key: str
    values: Mapping[str, tuple[str, ...]]
    seed: int | None
    prompts: int | None
    job: Job
    before: tuple[Job, ...] = ()

    @property
    def jobs(self) -> tuple[Job, ...]:
        """All jobs, in order."""
        return (*self.before, self.job)


@dataclass(frozen=True, slots=True)
class Question:
    """One thing on trial.

    Attributes:
        about: what it is, in words, behind "whether" and before "helps".
        ours: the arm that has it.
        controls: arms that have something like it which should not help.
    """

    about: str
    ours: str
    controls: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ablation:
    """What a sweep's file asks.

    Attributes:
        axis: whose values are the arms.
        without: the arm that has nothing on trial.
        margins: metric -> the smallest gain that would be worth having; the first metric gives the answer.
        questions: one after the other.
    """

    axis: str
    without: str
    margins: Mapping[str, float]
    questions: tuple[Question, ...]

    @property
    def arms(self) -> list[str]:
        """Every arm that is asked about."""
        named = [arm for question in self.questions for arm in (question.ours, *question.controls)]
        return list(dict.fromkeys([self.without, *named]))


@dataclass(frozen=True, slots=True)
class Sweep:
    """Runs of one command, or of jobs that build on each other, under every combination of settings.

    Attributes:
        path: the file.
        out: folder of the tables; the runs' folders are in ``raw``.
        command: of the jobs that are measured: ``fit``, ``validate``, ``test`` or ``predict``.
        axes: axis -> names of its values, in order.
        runs: in order; no two have the same settings.
        duplicates: combinations that are not run, since another has the same settings.
        baseline: axis and value that the others are compared with.
        metrics: name in the tables -> name as logged, of those that come first.
        ablation: what is on trial; None: nothing.
    """

    path: Path
    out: Path
    command: str
    axes: Mapping[str, tuple[str, ...]]
    runs: tuple[Run, ...]
    duplicates: int
    baseline: tuple[str, str] | None
    metrics: Mapping[str, str]
    ablation: Ablation | None = None

    def plan(self, threads: int | None = None) -> Recipe:
        """The same runs as jobs of a recipe."""
        jobs = {job.name: job for run in self.runs for job in run.jobs}
        return Recipe(self.out, tuple(jobs.values()), threads)

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
    _check_source(path, content)
    try:
        grid = list(_grid(content, dict(map(_change, changes))))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    runs = _placed(_distinct(grid))
    baseline = next(iter(content.get("baseline", {}).items()), None)
    _check_baseline(path, baseline, axes)
    ablation = _read_ablation(path, content["ablation"], axes, content["metrics"]) if "ablation" in content else None
    return Sweep(
        path=path,
        out=Path(out or content["out"]),
        command=runs[0].job.command,
        axes=axes,
        runs=runs,
        duplicates=len(grid) - len(runs),
        baseline=baseline,
        metrics=content["metrics"],
        ablation=ablation,
    )


def _check_source(path: Path, content: Mapping[str, Any]) -> None:
    """Refuse a sweep of both a configuration and a recipe, or of neither."""
    if ("recipe" in content) == ("config" in content):
        raise UserError(f"{path}: give it `config`, for one command, or `recipe`, for jobs that build on each other")
    if "recipe" in content and ("job" not in content or "command" in content):
        raise UserError(f"{path}: with `recipe` give `job`, the one that is measured, and no `command`")
    if "job" in content and "recipe" not in content:
        raise UserError(f"{path}: `job` is of a sweep with `recipe`; leave it out")


def _read_ablation(
    path: Path, given: Mapping[str, Any], axes: Mapping[str, Sequence[str]], metrics: Mapping[str, str]
) -> Ablation:
    """What is on trial, its form checked already; every arm and metric must be one of the sweep's."""
    questions = [Question(one["about"], one["ours"], tuple(one.get("controls", ()))) for one in given["questions"]]
    ablation = Ablation(given["axis"], given["without"], dict(given["margins"]), tuple(questions))
    check_choice(f"{path}: ablation.axis, an axis", ablation.axis, axes)
    if len(axes) > 1:
        raise UserError(f"{path}: an ablation is of a sweep with one axis, whose values are its arms")
    for arm in ablation.arms:
        check_choice(f"{path}: ablation: arms of {ablation.axis}", arm, axes[ablation.axis])
    for name in ablation.margins:
        check_choice(f"{path}: ablation.margins: metrics", name, metrics)
    return ablation


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
    prompts = content.get("prompts", {"setting": "", "values": [None]})
    for values in product(*(axis.items() for axis in content["axes"].values())):
        for count, seed in product(prompts["values"], content.get("seeds", [None])):
            overrides = dict(content["overrides"])
            for _, settings in values:
                overrides |= settings or {}
            overrides |= ({} if count is None else {prompts["setting"]: count}) | changes
            parts = [name for name, _ in values]
            parts += [f"{letter}{number}" for letter, number in (("n", count), ("s", seed)) if number is not None]
            labels = {axis: (name,) for axis, (name, _) in zip(content["axes"], values, strict=True)}
            *before, job = (seeded(job, seed) for job in _run_jobs(content, overrides))
            yield Run("__".join(parts), labels, seed, count, job, tuple(before))


def _run_jobs(content: Mapping[str, Any], overrides: Mapping[str, Any]) -> list[Job]:
    """The jobs of one run, the measured one last: one of a configuration, or a recipe's and those it builds on."""
    if "recipe" not in content:
        names = content["config"]
        configs = tuple(find_config(name) for name in ([names] if isinstance(names, str) else names))
        _check_references(overrides)
        return [Job("", content.get("command", "test"), configs, overrides)]
    jobs = {job.name: job for job in jobs_with(content["recipe"], overrides) if job.command in MEASURED}
    check_choice(f"job: jobs of {content['recipe']} that may be measured", content["job"], jobs)
    wanted, asked = set[str](), [content["job"]]
    while asked:
        wanted.add(name := asked.pop())
        asked += jobs[name].needs
    kept = [job for job in jobs.values() if job.name in wanted]
    return sorted(kept, key=lambda job: job.name == content["job"])


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
        same.setdefault(_settings(run, run.job), []).append(run)
    return tuple(_joined(runs) for runs in same.values())


def _settings(run: Run, job: Job) -> str:
    """What decides the result of a job of a run, as a text: equal for equal jobs, their earlier ones included."""
    needed = [_settings(run, other) for other in run.before if other.name in job.needs]
    return json.dumps([job.name, [str(path) for path in job.configs], dict(job.overrides), run.seed, needed])


def _joined(runs: Sequence[Run]) -> Run:
    first = runs[0]
    values = {axis: tuple(dict.fromkeys(run.values[axis][0] for run in runs)) for axis in first.values}
    return replace(first, values=values)


def _placed(runs: Sequence[Run]) -> tuple[Run, ...]:
    """The runs with the folders of their jobs; jobs that several ask for have one, under the first of these runs."""
    holders: dict[str, list[Run]] = {}
    for run in runs:
        for job in run.before:
            holders.setdefault(_settings(run, job), []).append(run)
    return tuple(_with_folders(run, holders, runs) for run in runs)


def _with_folders(run: Run, holders: Mapping[str, Sequence[Run]], runs: Sequence[Run]) -> Run:
    folders = {run.job.name: f"{RAW}/{run.key}/{run.job.name}".rstrip("/")}
    of_seed = sum(other.seed == run.seed for other in runs)
    for job in run.before:
        asking = holders[_settings(run, job)]
        seed = "" if run.seed is None else f"__s{run.seed}"
        whole = len(asking) == of_seed > 1
        folders[job.name] = f"{SHARED}/{job.name}{seed}" if whole else f"{RAW}/{asking[0].key}/{job.name}"

    def moved(text: str) -> str:
        for name, folder in folders.items():
            text = text.replace(f"${{jobs.{name}.", f"${{jobs.{folder}.")
        return text

    jobs = [
        replace(
            job,
            name=folders[job.name],
            overrides={key: with_texts(value, moved) for key, value in job.overrides.items()},
            needs=tuple(folders[name] for name in job.needs),
        )
        for job in run.jobs
    ]
    return replace(run, job=jobs[-1], before=tuple(jobs[:-1]))


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
