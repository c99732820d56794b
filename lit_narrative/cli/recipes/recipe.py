"""A recipe: what it says, and what the jobs in it ask of each other."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

from jsonschema import Draft202012Validator, ValidationError
from jsonschema.exceptions import best_match

from lit_narrative.errors import UserError, check_choice, did_you_mean
from lit_narrative.files import read_yaml
from lit_narrative.lookup import find_config

FOLDER_COMMANDS = {"report", "sweep"}
"""Commands that work on the recipe's whole folder; the others are Lightning's, each in a folder of its own."""
REFERENCE = re.compile(r"\$\{([^}]*)\}")


@dataclass(frozen=True, slots=True)
class Job:
    """One command of a recipe.

    Attributes:
        name: of the job and of its folder; ``seed_<n>/<job>`` where a recipe runs over several seeds.
        command: ``fit``, ``validate``, ``test``, ``predict``, ``extract``, ``report`` or ``sweep``.
        configs: its configuration files, later ones over earlier ones; of a ``sweep`` the sweep's file.
        overrides: setting -> value, over the configuration; texts may hold references.
        needs: the earlier jobs that it refers to; a ``report`` or a ``sweep`` needs them all.
        seed: of this job; None: what its configurations say.
        report: of a ``report``, the task whose page it is, or a custom one, ``package.module:function``; None: the task
            that the folder's files show.
        sections: of a ``report``, custom sections of its page, each ``package.module:function``.
        share: of the recipe's time, in a unit of the recipe's own; None: not known.
    """

    name: str
    command: str
    configs: tuple[Path, ...] = ()
    overrides: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    seed: int | None = None
    report: str | None = None
    sections: tuple[str, ...] = ()
    share: float | None = None


@dataclass(frozen=True, slots=True)
class Recipe:
    """Jobs that run one after another.

    Attributes:
        out: the folder of the jobs' folders.
        jobs: in order.
        threads: of PyTorch in each job; None: as many as a measurement finds fastest.
        workers: jobs at a time.
        seeds: that it runs with; none: what its configurations say.
    """

    out: Path
    jobs: tuple[Job, ...]
    threads: int | None = None
    workers: int = 1
    seeds: tuple[int, ...] = ()

    def folder(self, job: Job) -> Path:
        """Return the folder that a job writes to."""
        return self.out if job.command in FOLDER_COMMANDS else self.out / job.name

    def output(self, job: Job) -> Path:
        """Return the folder that a job is told to write to: extraction makes one of its own, whole or not at all."""
        return self.folder(job) / "activations" if job.command == "extract" else self.folder(job)

    def resolve(self, value: Any) -> Any:
        """Replace the references in a value's texts: ``${jobs.NAME.dir}``, ``${jobs.NAME.ckpt}``, ``${out}``."""
        return with_texts(value, lambda text: REFERENCE.sub(lambda match: self._value(match[1]), text))

    def _value(self, reference: str) -> str:
        if reference == "out":
            return str(self.out)
        name, _, attribute = reference.removeprefix("jobs.").rpartition(".")
        folder = self.out / name
        return str(folder / "checkpoints" / "last.ckpt" if attribute == "ckpt" else folder)


def read_recipe(name: str, *, out: str | None = None, changes: Sequence[str] = (), seeds: Sequence[int] = ()) -> Recipe:
    """Read a recipe and check it whole: its form, its configurations, and what its jobs refer to.

    Args:
        name: a file, or a shipped recipe (``storyworld``).
        out: folder of the jobs, in place of the recipe's.
        changes: ``JOB.SETTING=VALUE``, over the recipe's overrides, for every seed; ``all`` stands for every job.
        seeds: in place of the recipe's ``seeds``, or one in place of its ``seed``.

    Raises:
        UserError: something is wrong; it names the file and the position in it.
    """
    path = find_config(name, within="recipes")
    content = read_checked(path, "recipe")
    for change in changes:
        _change(content["jobs"], *change.partition("=")[::2], f"--set {change}")
    for entry in content["jobs"] if changes else ():  # the shares were measured without them
        entry.pop("share", None)
    jobs = list(_jobs(path, content["jobs"]))
    # `dict.fromkeys`: a seed that is given twice counts once, and the order stays.
    given = tuple(dict.fromkeys(seeds or content.get("seeds", [content["seed"]] if "seed" in content else [])))
    if "seeds" in content:
        jobs = _for_each_seed(jobs, given)
    elif len(given) > 1:
        raise UserError(f"{path} runs with one seed, and --seed gives {len(given)}: write `seeds:` in place of `seed:`")
    else:
        jobs = [seeded(job, given[0] if given else None) for job in jobs]
    return Recipe(Path(out or content["out"]), tuple(jobs), content.get("threads"), content.get("workers", 1), given)


def jobs_with(name: str, changes: Mapping[str, Any]) -> list[Job]:
    """The jobs of a recipe with some of their settings changed, without folders of seeds.

    Args:
        name: a file, or a shipped recipe.
        changes: ``JOB.SETTING`` -> value.

    Raises:
        UserError: something is wrong; it names the file and the position in it.
    """
    path = find_config(name, within="recipes")
    content = read_checked(path, "recipe")
    for setting, value in changes.items():
        _change(content["jobs"], setting, value, setting)
    return list(_jobs(path, content["jobs"]))


def _jobs(path: Path, entries: Sequence[Mapping[str, Any]]) -> Iterator[Job]:
    jobs: list[Job] = []
    for entry in entries:
        if entry["name"] in {job.name for job in jobs}:
            raise UserError(f"{path}: two jobs have the name '{entry['name']}'")
        jobs.append(_job(path, entry, jobs))
        yield jobs[-1]


def with_texts(value: Any, change: Callable[[str], str]) -> Any:
    """A value of a configuration with every text in it changed, the keys of its dicts too."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(str(key)): with_texts(part, change) for key, part in value.items()}
    return [with_texts(part, change) for part in value] if isinstance(value, list) else value


def references(value: Any) -> list[str]:
    """What the texts of a value refer to."""
    return [reference for text in texts_in(value) for reference in REFERENCE.findall(text)]


def texts_in(value: Any) -> Iterator[str]:
    """All texts of a value of a configuration, the keys of its dicts too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield str(key)
            yield from texts_in(part)
    elif isinstance(value, list):
        for part in value:
            yield from texts_in(part)


def _for_each_seed(jobs: Sequence[Job], seeds: Sequence[int]) -> list[Job]:
    """All jobs of the first seed, then of the next; a job on the whole folder comes once, at the end."""
    ordinary = [job for job in jobs if job.command not in FOLDER_COMMANDS]
    runs = [seeded(job, seed, f"seed_{seed}/") for seed in seeds for job in ordinary]
    every = tuple(job.name for job in runs)
    return [*runs, *(replace(job, needs=every) for job in jobs if job.command in FOLDER_COMMANDS)]


def seeded(job: Job, seed: int | None, folder: str = "") -> Job:
    """Give a job its seed and put it into a folder, with the jobs of the same seed that it refers to."""

    # A reference keeps to its seed: `${jobs.sft.ckpt}` of seed 1 becomes `${jobs.seed_1/sft.ckpt}`.
    def rewritten(text: str) -> str:
        return text.replace("${seed}", str(seed or 0)).replace("${jobs.", f"${{jobs.{folder}")

    overrides = {key: with_texts(value, rewritten) for key, value in job.overrides.items()}
    needs = tuple(folder + name for name in job.needs)
    return replace(job, name=folder + job.name, overrides=overrides, needs=needs, seed=seed)


def find_jobs(plan: Recipe, names: Sequence[str], flag: str) -> frozenset[str]:
    """Find jobs by name: ``sft`` is that of every seed, ``seed_0/sft`` that of one.

    Args:
        plan: the recipe.
        names: of jobs.
        flag: by which they were given, for the message.

    Raises:
        UserError: there is no such job; naming the nearest.
    """
    known: dict[str, set[str]] = {}
    for job in plan.jobs:
        for name in {job.name, job.name.rpartition("/")[2]}:
            known.setdefault(name, set()).add(job.name)
    for name in names:
        check_choice(f"{flag} {name}: jobs", name, known)
    return frozenset(full for name in names for full in known[name])


def _job(path: Path, entry: Mapping[str, Any], earlier: Sequence[Job]) -> Job:
    """Make a job; see that its configurations are there and that it refers to what comes before it."""
    names = entry.get("config", [])
    within = "sweeps" if entry["command"] == "sweep" else ""
    configs = tuple(find_config(name, within=within) for name in ([names] if isinstance(names, str) else names))
    overrides = entry.get("overrides", {})
    needs = []
    for reference in references(overrides):
        try:
            needs += _needed(reference, earlier)
        except UserError as error:
            raise UserError(f"{path}: job '{entry['name']}': {error}") from error
    if entry["command"] in FOLDER_COMMANDS:  # they read what all jobs have left, without a reference to any
        needs = [job.name for job in earlier]
    needed = tuple(dict.fromkeys(needs))
    sections = tuple(entry.get("sections", ()))
    return Job(
        entry["name"],
        entry["command"],
        configs,
        overrides,
        needed,
        report=entry.get("report"),
        sections=sections,
        share=entry.get("share"),
    )


def _needed(reference: str, earlier: Sequence[Job]) -> list[str]:
    """Return the job that a reference needs, if any."""
    if reference in {"out", "seed"}:
        return []
    jobs = {job.name: job for job in earlier}
    root, _, rest = reference.partition(".")
    name, _, attribute = rest.partition(".")
    if root != "jobs" or attribute not in {"dir", "ckpt"}:
        raise UserError(f"'${{{reference}}}' is none of ${{jobs.NAME.dir}}, ${{jobs.NAME.ckpt}}, ${{out}}, ${{seed}}")
    check_choice(f"'${{{reference}}}': earlier jobs", name, jobs)
    if attribute == "ckpt" and jobs[name].command != "fit":
        raise UserError(f"'${{{reference}}}': only a fit leaves a checkpoint, and '{name}' is a {jobs[name].command}")
    return [name]


def _change(entries: Sequence[dict[str, Any]], key: str, value: Any, where: str) -> None:
    """Apply ``JOB.SETTING`` and its value to the job's entry, or to all; ``where`` they were given is for messages."""
    name, _, setting = key.partition(".")
    jobs = {entry["name"]: entry for entry in entries if entry["command"] != "report"}
    if not setting or (where.startswith("--set") and "=" not in where):
        raise UserError(f"{where}: write JOB.SETTING=VALUE, such as {next(iter(jobs))}.trainer.max_epochs=1")
    if name != "all":
        check_choice(f"{where}: jobs with settings", name, jobs, "all")
    for entry in [jobs[name]] if name in jobs else jobs.values():
        entry["overrides"] = {**entry.get("overrides", {}), setting: value}


def read_checked(path: Path, kind: str) -> dict[str, Any]:
    """Read a YAML file and check its form.

    Args:
        path: of the file.
        kind: ``recipe`` or ``sweep``; the form is ``<kind>.schema.json`` beside this file.

    Raises:
        UserError: it is not YAML, or has another form; it names the position and the nearest name.
    """
    content = read_yaml(path)
    schema = json.loads(files("lit_narrative.cli.recipes").joinpath(f"{kind}.schema.json").read_text(encoding="utf-8"))
    wrongs = list(Draft202012Validator(schema).iter_errors(content))
    # A misspelt key comes first: what else is wrong is often that the key which was meant is not there.
    if wrong := next((one for one in wrongs if one.validator == "additionalProperties"), None) or best_match(wrongs):
        raise UserError(f"{path}: {_describe(wrong, kind)}")
    return dict(content)


def _describe(error: ValidationError, kind: str) -> str:
    """Say where a file does not have its form, and the nearest name."""
    where = error.json_path.removeprefix("$").lstrip(".") or f"the {kind}"
    if error.validator == "additionalProperties":
        known = cast(Mapping[str, Any], error.schema)["properties"]
        unknown = next(key for key in cast(Mapping[str, Any], error.instance) if key not in known)
        return f"{where} has no key '{unknown}'{did_you_mean(unknown, known)} ({', '.join(known)})"
    if error.validator == "enum" and isinstance(error.validator_value, list):
        near = did_you_mean(str(error.instance), error.validator_value)
        return f"{where}: {error.instance!r} is none of {', '.join(error.validator_value)}{near}"
    if error.validator == "not":
        return f"{where}: {cast(Mapping[str, Any], error.schema)['description']}"
    return f"{where}: {error.message}"
