"""The folder of a style run, read into typed values.

Jobs lie in the folder itself, or in ``seed_<n>`` if the recipe has several seeds. A job with ``eval/test.json`` is the
test of an arm, ``test_NAME`` of what the job ``NAME`` has trained; its few-shot set is an arm of its own. A job with
``eval/judge.json`` is the examination of a judge.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lit_narrative.errors import UserError
from lit_narrative.report.intervals import Floats, Resamples, Value
from lit_narrative.report.records import Record, finite, read_answers, read_record
from lit_narrative.report.run_folder import Curve, RunFolder, SeedFolder, read_config, read_curves, read_run_folder

FIGURES, EXAMINATION = "eval/test.json", "eval/judge.json"
TESTS = f"*/{FIGURES}"
"""Pattern of the tests in a seed's folder."""
BASE, PROMPTING, BEST_OF_N, SFT, GRPO = "base", "prompting", "best_of_n", "sft", "grpo"
ARMS = (BASE, PROMPTING, BEST_OF_N, SFT, GRPO)
"""The arms in the order of the page: the model as it was, with a sample in the prompt, the best of several texts of the
model after supervised training, that model itself, and the one after reinforcement."""
ZERO_SHOT, FEW_SHOT = "test", "few_shot"
BOOKS, AUTHORS = "books", "authors"
"""Held-out pairs of an examination: of other books of authors that the judge knows, by which it is found fit, and of
authors that it never read."""
MEASURES = ("judge", "delta", "function_words", "length")
"""What an examination measures: the judge, and what needs no training."""


@dataclass(frozen=True, slots=True)
class Arm:
    """A tested model, in one way of asking it.

    Attributes:
        name: of the arm.
        where: the file of its figures.
        figures: over all texts.
        authors: author -> figures of the texts in that style.
        documents: the plot of each text.
        columns: figures of each text, NaN where there is none.
        over_used: phrases that it uses more often than people do, with z.
        texts: what it was asked for and wrote: columns ``author``, ``plot`` and ``text``.
        config: settings of the job that trained it, as YAML text; None where that is not here.
        curves: of that job's metrics.
    """

    name: str
    where: Path
    figures: Mapping[str, Value]
    authors: Mapping[str, Mapping[str, Value]]
    documents: tuple[str, ...]
    columns: Mapping[str, Floats]
    over_used: tuple[tuple[str, float], ...]
    texts: tuple[Mapping[str, str], ...]
    config: str | None
    curves: Mapping[str, Curve]


@dataclass(frozen=True, slots=True)
class Judge:
    """A judge's examination.

    Attributes:
        name: of its job, without ``test_``.
        fit: whether something may be trained against it.
        why: reasons.
        sets: held-out pairs -> `MEASURES` -> figures.
    """

    name: str
    fit: bool
    why: tuple[str, ...]
    sets: Mapping[str, Mapping[str, Mapping[str, Value]]]


@dataclass(frozen=True, slots=True)
class SeedRun:
    """The arms and the judges of one seed by name."""

    name: str
    arms: Mapping[str, Arm]
    judges: Mapping[str, Judge]

    def change(self, before: str = SFT, after: str = GRPO) -> dict[str, Value]:
        """What changed from one arm to another, text by text on the same prompts, with intervals over plots."""
        if before not in self.arms or after not in self.arms:
            return {}
        first, second = self.arms[before], self.arms[after]
        changed: dict[str, Value] = {}
        for name in first.columns:
            if name in second.columns:
                changed |= _change(name, first.documents, second.columns[name] - first.columns[name])
        for name in first.figures:
            if name in second.figures and name not in changed:
                changed[name] = (second.figures[name][0] - first.figures[name][0], None)
        return changed


def _change(name: str, documents: tuple[str, ...], differences: Floats) -> dict[str, Value]:
    known = np.isfinite(differences)
    if not known.any():
        return {}
    found = Resamples(documents).ratio(name, np.where(known, differences, 0.0), known.astype(float))
    bounds = found[f"{name}_ci"]
    return {name: (found[name], None if bounds is None else (bounds[0], bounds[1]))}


@dataclass(frozen=True, slots=True)
class StyleRun:
    """A run of the recipe ``style``, or of one like it.

    Attributes:
        folder: that the recipe wrote.
        seeds: at least one.
    """

    folder: RunFolder
    seeds: tuple[SeedRun, ...]

    @property
    def arms(self) -> tuple[str, ...]:
        """Names of the arms, those of the recipe first."""
        names = dict.fromkeys(name for seed in self.seeds for name in seed.arms)
        return (*(name for name in ARMS if name in names), *(name for name in names if name not in ARMS))

    @property
    def judges(self) -> tuple[str, ...]:
        """Names of the judges that were examined."""
        return tuple(dict.fromkeys(name for seed in self.seeds for name in seed.judges))

    def of(self, arm: str) -> list[Mapping[str, Value]]:
        """The figures of an arm under each seed that has it."""
        return [seed.arms[arm].figures for seed in self.seeds if arm in seed.arms]

    def examined(self, judge: str) -> list[Judge]:
        """The examinations of a judge under each seed that has one."""
        return [seed.judges[judge] for seed in self.seeds if judge in seed.judges]

    def changes(self) -> list[dict[str, Value]]:
        """What reinforcement changed, of each seed that tested both models."""
        return [change for seed in self.seeds if (change := seed.change())]


# --- reading ------------------------------------------------------------------------------------------------------


def read_style(out: str | Path) -> StyleRun:
    """Read what the jobs have left in ``out``; seeds without a test are left out.

    Raises:
        UserError: there is no test in it, a file is not what it should be, or the arms of a seed were tested on
            different prompts.
    """
    folder = read_run_folder(Path(out), TESTS)
    if not any(folder.seeds[0].path.glob(TESTS)):
        raise UserError(f"'{out}' holds no test of a model: no job in it has {FIGURES}")
    return StyleRun(folder, tuple(_read_seed(seed) for seed in folder.seeds))


def _read_seed(seed: SeedFolder) -> SeedRun:
    jobs = seed.in_order(path.parent.parent for path in seed.path.glob(TESTS))
    arms = [arm for job in jobs for arm in _read_arms(job)]
    for arm in arms:
        if arm.documents != arms[0].documents:
            raise UserError(
                f"{arm.where}: the prompts of '{arm.name}' are not those of {arms[0].where}: test all arms of a seed "
                "with the same data settings"
            )
    examined = seed.in_order(path.parent.parent for path in seed.path.glob(f"*/{EXAMINATION}"))
    judges = [_read_judge(job) for job in examined]
    return SeedRun(seed.name, {arm.name: arm for arm in arms}, {judge.name: judge for judge in judges})


def _read_arms(job: Path) -> list[Arm]:
    name, where = job.name.removeprefix("test_"), job / FIGURES
    splits = read_record(where).child("splits")
    names = {ZERO_SHOT: name, FEW_SHOT: PROMPTING if name == BASE else f"{name}_few_shot"}
    found = [(split, arm) for split, arm in names.items() if split in splits.value]
    if not found:
        raise UserError(f"{where} has no set '{ZERO_SHOT}'; leave it among the sets of SetEvaluation")
    return [_read_arm(job, split, arm, splits.child(split)) for split, arm in found]


def _read_arm(job: Path, split: str, name: str, record: Record) -> Arm:
    columns, trained = record.child("rows"), job.parent / job.name.removeprefix("test_")
    documents = tuple(str(plot) for plot in columns.items("document"))
    metrics = trained / "metrics.csv"
    authors = record.child("authors")
    return Arm(
        name=name,
        where=job / FIGURES,
        figures=record.figures(),
        authors={author: authors.child(author).figures() for author in authors.value},
        documents=documents,
        columns={
            key: _column(columns, key, len(documents)) for key in columns.value if key not in ("document", "author")
        },
        over_used=tuple(
            (str(row[0]), value)
            for row in record.items("over_used")
            if isinstance(row, list) and len(row) == 2 and (value := finite(row[1])) is not None
        ),
        texts=_texts((job / FIGURES).with_suffix(".jsonl"), split, len(documents)),
        config=read_config(trained),
        curves=read_curves(metrics) if metrics.is_file() else {},
    )


def _column(record: Record, name: str, count: int) -> Floats:
    values = [finite(value) for value in record.items(name)]
    if len(values) != count:
        raise UserError(f"{record.where}: '{name}' must be {count} numbers, one a text")
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _texts(path: Path, split: str, count: int) -> tuple[Mapping[str, str], ...]:
    records = read_answers(path, split, count)
    return tuple({key: record.text(key) for key in ("author", "plot", "text")} for record in records)


def _read_judge(job: Path) -> Judge:
    record = read_record(job / EXAMINATION)
    found = record.child("sets")
    sets = {
        name: {measure: found.child(name).child(measure).figures() for measure in MEASURES}
        for name in (BOOKS, AUTHORS)
        if name in found.value
    }
    why = tuple(str(reason) for reason in record.items("why"))
    return Judge(job.name.removeprefix("test_"), record.value.get("fit") is True, why, sets)
