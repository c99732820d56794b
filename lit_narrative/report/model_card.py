"""The model card of an exported checkpoint: what a run's folder says of data, rewards, seeds, versions and figures.

Whatever comes out of a file stands in code spans and code blocks, in which Markdown and HTML mean nothing.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from lit_narrative import __version__
from lit_narrative.files import read_utf8, read_yaml
from lit_narrative.redaction import redact
from lit_narrative.report.format import clip, one_line, printable, significant
from lit_narrative.report.records import Record, as_record, read_record
from lit_narrative.report.run_folder import read_command, read_curves, recipe_note

Kind = Literal["model", "adapter", "sae", "reward", "judge"]
_LONGEST = 30_000
"""Characters of the settings that a card shows."""
_FIGURES = 60
"""Rows of a table of figures."""
_DEEPEST = 6
"""Objects within objects that figures are looked for in."""
_STAGES = 12
"""Jobs that a chain of checkpoints is followed back."""
_HUB_NAME = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")
_CONTROL = re.compile(
    r"(^|[/_])(corpus|controls?|random\w*|permuted|shuffled|wrong\w*|empty|blank|baseline|untrained|raw|chance|mean_vector)"
    r"($|[/_])"
)
"""Names of figures that say what is reached without what was learned."""
_LOADERS: Mapping[Kind, tuple[str, str, str]] = {
    "model": (
        "transformers",
        "text-generation",
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        "model = AutoModelForCausalLM.from_pretrained(FOLDER)\ntokenizer = AutoTokenizer.from_pretrained(FOLDER)",
    ),
    "adapter": (
        "peft",
        "text-generation",
        "from peft import AutoPeftModelForCausalLM\n\nmodel = AutoPeftModelForCausalLM.from_pretrained(FOLDER)",
    ),
    "sae": ("saelens", "", "from sae_lens import SAE\n\nsae = SAE.load_from_disk(FOLDER)"),
    "reward": (
        "sentence-transformers",
        "",
        "from sentence_transformers import SentenceTransformer\n\n"
        "vectors = SentenceTransformer(FOLDER).encode(texts)\n"
        "# The score of a vector: reward_head.json has the head's arguments, reward_head.safetensors its weights.",
    ),
    "judge": (
        "sentence-transformers",
        "sentence-similarity",
        "from sentence_transformers import SentenceTransformer, util\n\n"
        "vectors = SentenceTransformer(FOLDER).encode([text, other])\nscore = util.cos_sim(vectors[0], vectors[1])",
    ),
}
"""The library of a folder, the task that hubs know it by, and how it is loaded."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A job of the chain that led to a checkpoint.

    Attributes:
        folder: of the job.
        config: its settings.
        versions: package -> release, as the settings' header has them.
    """

    folder: Path
    config: Record
    versions: Mapping[str, str]

    @property
    def settings(self) -> Mapping[str, Any]:
        """The arguments of the module."""
        return self.config.child("model").child("init_args").value

    def name_of(self, part: Literal["model", "data"]) -> str:
        """The class of the module or of the data, without its package."""
        return self.config.child(part).text("class_path").rpartition(".")[2]


def model_card(checkpoint: Path, kind: Kind, learned: Sequence[str] = ()) -> str:
    """Make the card of a checkpoint, as Markdown with the header that model hubs read.

    Args:
        checkpoint: the file; what is known of it stands in the folder of the run that wrote it.
        kind: what it is exported as.
        learned: what the recipe's own report says of the run, line by line.

    Raises:
        UserError: a file of the run is not what it should be.
    """
    checkpoint = checkpoint if len(checkpoint.parts) > 2 else checkpoint.absolute()
    stages = find_stages(checkpoint)
    parts = [_header(stages, kind), _title(stages, kind), _loading(kind)]
    if stages:
        parts += [_training(stages), _data(stages[0]), _rewards(stages[0]), *_measured(stages, checkpoint, learned)]
        parts += [_versions(stages[0]), _reproduce(stages)]
    else:
        parts.append(
            "## Training\n\nThe checkpoint stood outside the folder of its run, so that neither its data and settings "
            "nor its figures are known here."
        )
    return "\n\n".join(part for part in parts if part) + "\n"


def find_stages(checkpoint: Path) -> list[Stage]:
    """The jobs that led to a checkpoint, the one that wrote it first; empty where it stands outside a run's folder.

    Raises:
        UserError: the settings of a job cannot be read.
    """
    stages: list[Stage] = []
    while len(stages) < _STAGES and (folder := _job_of(checkpoint)) is not None:
        if any(stage.folder == folder for stage in stages):
            break
        path = folder / "config.yaml"
        config = as_record(str(path), read_yaml(path))
        header = re.findall(r"^# ([\w.-]+)==(\S+)$", read_utf8(path), flags=re.MULTILINE)
        stages.append(Stage(folder, config, dict(header)))
        if (before := _start_of(stages[-1])) is None:
            break
        checkpoint = before
    return stages


def _start_of(stage: Stage) -> Path | None:
    """The checkpoint that a job began from."""
    before = stage.settings.get("model")
    if not isinstance(before, str) or not before.endswith(".ckpt"):
        return None
    # Beside this job first: a run's folder may have been moved since its settings were written.
    beside = Path(stage.folder.parent, *Path(before).parts[-3:])
    return beside if _job_of(beside) is not None else Path(before)


def _job_of(checkpoint: Path) -> Path | None:
    folder = checkpoint.parent.parent
    there = checkpoint.parent.name == "checkpoints" and (folder / "config.yaml").is_file()
    return folder if there else None


# --- Markdown ---------------------------------------------------------------------------------------------------------


def code(value: Any) -> str:
    """A value as a code span in one line, fit for a cell of a table; a dash where there is none."""
    text = one_line(printable(str(value))).strip()
    if not text:
        return "–"
    ticks = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if len(ticks) > 1 else ""
    return f"{ticks}{space}{text}{space}{ticks}".replace("|", r"\|")


def block(text: str, language: str = "") -> str:
    """A text as a fenced block that nothing in it can close."""
    text = clip(printable(text).strip("\n"), _LONGEST)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _yaml(value: Any) -> str:
    return yaml.safe_dump(redact(value), sort_keys=False, allow_unicode=True)


# --- parts ------------------------------------------------------------------------------------------------------------


def _header(stages: Sequence[Stage], kind: Kind) -> str:
    library, task, _ = _LOADERS[kind]
    tags = ["lit-narrative", *([stages[0].name_of("model")] if stages else [])]
    known = {"library_name": library, "tags": [one_line(tag) for tag in tags if tag]}
    if task:
        known["pipeline_tag"] = task
    first = (stages[-1].settings.get("model") or stages[-1].settings.get("encoder")) if stages else None
    if isinstance(first, str) and _HUB_NAME.fullmatch(first) and not Path(first).exists():
        known["base_model"] = first
    return f"---\n{yaml.safe_dump(known, sort_keys=False, allow_unicode=True)}---"


def _title(stages: Sequence[Stage], kind: Kind) -> str:
    if not stages:
        return f"# A {kind} of lit-narrative\n\nExported by lit-narrative {__version__}."
    stage = stages[0]
    made_by = stage.versions.get("lit-narrative", "")
    return (
        f"# {code(stage.folder.resolve().name)}\n\nTrained by lit-narrative {code(made_by)} with "
        f"{code(stage.name_of('model'))} on {code(stage.name_of('data'))}; exported by {__version__}. This card is "
        "made from the run's own files. What the model writes was screened by nobody: it is an object of research."
    )


def _loading(kind: Kind) -> str:
    return f"## Loading\n\n{block(_LOADERS[kind][2], 'python')}"


def _training(stages: Sequence[Stage]) -> str:
    rows = [_stage_row(stage) for stage in reversed(stages)]
    titles = ("job", "module", "data", "from", "steps", "learning rate", "seed", "seconds")
    return f"## Training\n\n{_table(titles, rows)}"


def _stage_row(stage: Stage) -> list[str]:
    table, status = stage.folder / "metrics.csv", stage.folder / "job.json"
    last = max((curve[-1][0] for curve in read_curves(table).values()), default=None) if table.is_file() else None
    seconds = read_record(status).maybe("seconds") if status.is_file() else None
    start = stage.settings.get("model") or stage.settings.get("encoder")
    cells: list[Any] = [
        stage.folder.name,
        stage.name_of("model"),
        stage.name_of("data"),
        "/".join(Path(start).parts[-3:]) if isinstance(start, str) else "random weights",
        "" if last is None else f"{last + 1:.0f}",
        stage.settings.get("lr", ""),
        stage.config.value.get("seed_everything", ""),
        "" if seconds is None else f"{seconds:.0f}",
    ]
    return [code("" if cell is None else redact(cell)) for cell in cells]


def _data(stage: Stage) -> str:
    data = stage.config.child("data")
    return f"## Data\n\n{code(data.text('class_path'))} with\n\n{block(_yaml(data.child('init_args').value), 'yaml')}"


def _rewards(stage: Stage) -> str:
    rewards = stage.settings.get("rewards")
    if not isinstance(rewards, dict) or not rewards:
        return ""
    rows = [(code(name), code(weight)) for name, weight in redact(rewards).items()]
    return f"## Rewards\n\n{_table(('reward', 'weight'), rows)}"


def _versions(stage: Stage) -> str:
    rows = [(code(name), code(release)) for name, release in stage.versions.items()]
    return f"## Versions\n\nOf the run:\n\n{_table(('package', 'release'), rows)}" if rows else ""


def _reproduce(stages: Sequence[Stage]) -> str:
    stage = stages[0]
    command = read_command(stage.folder.parent)
    made = f"Made by\n\n{block(command, 'sh')}\n\n" if command and recipe_note(stage.folder.parent) else ""
    settings = block(_yaml(stage.config.value), "yaml")
    return f"## Settings\n\n{made}<details><summary>All settings of the job</summary>\n\n{settings}\n\n</details>"


# --- figures ----------------------------------------------------------------------------------------------------------


def _tests(checkpoint: Path, job: Path | None) -> Iterator[Path]:
    """The folders of the tests of a checkpoint: the job's own, and jobs beside it whose settings name it."""
    own = checkpoint.parts[-3:]
    beside = [] if job is None else [job, *sorted(path for path in job.parent.glob("*/") if path != job)]
    for folder in beside:
        path = folder / "config_test.yaml"
        if not path.is_file():
            continue
        config = as_record(str(path), read_yaml(path))
        named = (config.value.get("ckpt_path"), config.child("model").child("init_args").value.get("model"))
        if folder == job or any(isinstance(one, str) and Path(one).parts[-3:] == own for one in named):
            yield folder


def _tested(checkpoint: Path | None) -> dict[str, dict[str, "Figure"]]:
    """The figures of the tests of a checkpoint, by job."""
    folders = [] if checkpoint is None else _tests(checkpoint, _job_of(checkpoint))
    return {folder.name: _figures_of(folder) for folder in folders}


def _measured(stages: Sequence[Stage], checkpoint: Path, learned: Sequence[str]) -> Iterator[str]:
    """The figures of tests, or else of the last validation; and beside them what controls reach."""
    if learned:
        yield f"## What the run's report says\n\n{block(chr(10).join(learned), 'text')}"
    found = {f"{job}/{name}": value for job, figures in _tested(checkpoint).items() for name, value in figures.items()}
    before = {name: value for figures in _tested(_start_of(stages[0])).values() for name, value in figures.items()}
    where = "of held-out tests of this checkpoint, with 95 % intervals where the run has them"
    if before:
        where += "; the last column is the checkpoint that it began from, in a test of its own"
    logged = _ends(stages[0].folder)
    if not found:
        found, where = {name: end for name, end in logged.items() if name.startswith("val/")}, "of its last validation"
    controls = {name: value for name, value in found.items() if _CONTROL.search(name)}
    results = {name: value for name, value in found.items() if name not in controls}
    # Controls that the job itself logged, such as those of each cycle's autoencoder.
    controls |= {f"{stages[0].folder.name}/{name}": end for name, end in logged.items() if _CONTROL.search(name)}
    if results:
        yield f"## Measured results\n\nThese are {where}.\n\n{_figure_table(results, before)}"
    else:
        yield "## Measured results\n\nThe run's folder holds no test and no validation of this checkpoint."
    if controls:
        said = "What is reached without what was learned: by the corpus, at random, or by other baselines of the run."
        yield f"## Controls\n\n{said}\n\n{_figure_table(controls, {})}"


Figure = tuple[float, tuple[float, float] | None]


def _figures_of(folder: Path) -> dict[str, Figure]:
    """The figures of a test: those of its JSON files with their intervals, or else the last row of its table."""
    files = sorted(folder.glob("*/test.json"))
    found = {name: value for path in files for name, value in _flat(read_record(path)).items()}
    table = folder / "metrics_test.csv"
    if not found and table.is_file():
        found = {name: (curve[-1][1], None) for name, curve in read_curves(table).items() if name != "epoch"}
    return found


def _flat(record: Record, prefix: str = "") -> dict[str, Figure]:
    """Every number of nested objects by its path, with the interval at ``<key>_ci``."""
    found: dict[str, Figure] = {prefix + name: figure for name, figure in record.figures().items()}
    for key, value in record.value.items():
        if isinstance(value, dict) and prefix.count("/") < _DEEPEST:
            found |= _flat(record.child(key), f"{prefix}{key}/")
    return found


def _ends(job: Path) -> dict[str, Figure]:
    """The last value of every metric that a job has logged."""
    table = job / "metrics.csv"
    return {name: (curve[-1][1], None) for name, curve in read_curves(table).items()} if table.is_file() else {}


def _figure_table(figures: Mapping[str, Figure], before: Mapping[str, Figure]) -> str:
    rows = []
    for name, (value, ends) in list(figures.items())[:_FIGURES]:
        start = before.get(name.partition("/")[2])
        cells = [code(name), significant(value), "" if ends is None else " to ".join(map(significant, ends))]
        rows.append([*cells, "" if start is None else significant(start[0])] if before else cells)
    more = len(figures) - _FIGURES
    rest = f"\n\n{more} more are in the run's folder." if more > 0 else ""
    titles = ("figure", "value", "95 % interval", "before")
    return _table(titles if before else titles[:3], rows) + rest
