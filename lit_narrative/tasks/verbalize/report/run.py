"""The folder of a verbalize run, read into typed values.

Jobs lie in the folder itself, or in ``seed_<n>`` if the recipe has several seeds. A job with ``eval/test.json`` is the
test of an actor; ``test_NAME`` tests what the job ``NAME`` has trained.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lit_narrative.errors import UserError
from lit_narrative.report.intervals import Floats, Value
from lit_narrative.report.records import Record, finite, read_answers, read_record
from lit_narrative.report.run_folder import RunFolder, SeedFolder, read_config, read_run_folder
from lit_narrative.tasks.verbalize.evaluation.controls import CONTROLS, SEPARATE, privileged_gain

FIGURES = "eval/test.json"
TESTS = f"*/{FIGURES}"
"""Pattern of the tests in a seed's folder."""
BASE, FINAL, TEST = "sft", "grpo", "test"
"""The actor after supervised training, the one after reinforcement, and the set of held-out documents."""


@dataclass(frozen=True, slots=True)
class Scores:
    """An actor on one set.

    Attributes:
        figures: by name.
        documents: of each row.
        rows: FVE of each row, by the name of the figure.
    """

    figures: Mapping[str, Value]
    documents: tuple[str, ...]
    rows: Mapping[str, Floats]


@dataclass(frozen=True, slots=True)
class Explained:
    """A row of the test set.

    Attributes:
        source: the text up to the position.
        explanation: of its last token; None: the format failed.
        answer: the whole completion.
        teacher: its text; empty where there is none.
        right: what the explanation claims and is so.
        wrong: what it claims and is not so.
        fve: of the row, under the co-trained critic; None without one.
    """

    source: str
    explanation: str | None
    answer: str
    teacher: str
    right: tuple[str, ...]
    wrong: tuple[str, ...]
    fve: float | None


@dataclass(frozen=True, slots=True)
class Actor:
    """A tested actor.

    Attributes:
        name: of its test job, without ``test_``.
        where: the file of its figures.
        scores: by set.
        rows: of the test set, in order.
        config: settings of the job that trained it, as YAML text; None where that is not here.
    """

    name: str
    where: Path
    scores: Mapping[str, Scores]
    rows: tuple[Explained, ...]
    config: str | None


@dataclass(frozen=True, slots=True)
class SeedRun:
    """The tested actors of one seed by name, the base first."""

    name: str
    actors: Mapping[str, Actor]

    def figures(self, name: str) -> dict[str, Value]:
        """Every figure of an actor on the test set, with its FVE under each control and the privileged gain.

        Actors that are controls themselves have none.
        """
        actor = self.actors[name]
        figures = dict(actor.scores[TEST].figures)
        if name in SEPARATE:
            return figures
        controls = self._controls(actor)
        for control, scores in controls.items():
            found = {suffix: scores.figures.get(f"fve{suffix}") for suffix in ("", "_frozen")}
            figures |= {control + suffix: value for suffix, value in found.items() if value is not None}
        for suffix in ("", "_frozen"):
            figures |= _gain(actor, controls, suffix)
        return figures

    def _controls(self, actor: Actor) -> dict[str, Scores]:
        own = {name: actor.scores[name] for name in CONTROLS if name in actor.scores}
        others = {name: self.actors[name].scores[TEST] for name in SEPARATE if name in self.actors}
        return own | others


def _gain(actor: Actor, controls: Mapping[str, Scores], suffix: str) -> dict[str, Value]:
    """FVE of an actor less that of its best control."""
    ours, key = actor.scores[TEST], f"fve{suffix}"
    rows = {name: scores.rows[key] for name, scores in controls.items() if key in scores.rows}
    if not rows or key not in ours.rows:
        return {}
    name = f"privileged_gain{suffix}"
    gain = privileged_gain(ours.documents, ours.rows[key], rows, name)
    return {name: (gain[name], None if gain[f"{name}_ci"] is None else tuple(gain[f"{name}_ci"]))}


@dataclass(frozen=True, slots=True)
class VerbalizeRun:
    """A run of the recipe ``verbalize``, or of one like it.

    Attributes:
        folder: that the recipe wrote.
        seeds: at least one.
    """

    folder: RunFolder
    seeds: tuple[SeedRun, ...]

    @property
    def actors(self) -> tuple[str, ...]:
        """Names of the tested actors: the base, the final one, the others, and the separate controls last."""
        names = dict.fromkeys(name for seed in self.seeds for name in seed.actors)
        rank = {name: place for place, name in enumerate((BASE, FINAL))}
        rank |= {name: 100 + place for place, name in enumerate(SEPARATE)}
        return tuple(sorted(names, key=lambda name: rank.get(name, 10)))

    def of(self, name: str) -> dict[str, dict[str, Value]]:
        """All figures of an actor under each seed that has it."""
        return {seed.name: seed.figures(name) for seed in self.seeds if name in seed.actors}


# --- reading ------------------------------------------------------------------------------------------------------


def read_verbalize(out: str | Path) -> VerbalizeRun:
    """Read what the jobs have left in ``out``; seeds without a test are left out.

    Raises:
        UserError: there is no test in it, a file is not what it should be, or the actors of a seed were tested on
            different rows.
    """
    folder = read_run_folder(Path(out), TESTS)
    if not any(folder.seeds[0].path.glob(TESTS)):
        raise UserError(f"'{out}' holds no test of an actor: no job in it has {FIGURES}")
    return VerbalizeRun(folder, tuple(_read_seed(seed) for seed in folder.seeds))


def _read_seed(seed: SeedFolder) -> SeedRun:
    jobs = seed.in_order(path.parent.parent for path in seed.path.glob(TESTS))
    actors = [_read_actor(job) for job in jobs]
    actors.sort(key=lambda actor: actor.name != BASE)
    for actor in actors:
        for name, scores in actor.scores.items():
            if scores.documents != actors[0].scores[TEST].documents:
                raise UserError(
                    f"{actor.where}: the rows of set '{name}' are not those of {actors[0].where}: test all actors of a "
                    "seed with the same data settings"
                )
    return SeedRun(seed.name, {actor.name: actor for actor in actors})


def _read_actor(job: Path) -> Actor:
    name, where = job.name.removeprefix("test_"), job / FIGURES
    splits = read_record(where).child("splits")
    if TEST not in splits.value:
        raise UserError(f"{where} has no set '{TEST}'; leave it among the sets of SetEvaluation")
    scores = {split: _scores(splits.child(split)) for split in splits.value}
    return Actor(name, where, scores, _rows(where.with_suffix(".jsonl"), scores[TEST]), read_config(job.parent / name))


def _scores(record: Record) -> Scores:
    columns = record.child("rows")
    documents = tuple(str(name) for name in columns.items("document"))
    rows = {name: _column(columns, name, len(documents)) for name in columns.value if name != "document"}
    return Scores(record.figures(), documents, rows)


def _column(record: Record, name: str, count: int) -> Floats:
    values = [finite(value) for value in record.items(name)]
    if len(values) != count or None in values:
        raise UserError(f"{record.where}: '{name}' must be {count} finite numbers, one a row")
    return np.array(values, dtype=np.float64)


def _rows(path: Path, scores: Scores) -> tuple[Explained, ...]:
    records = read_answers(path, TEST, len(scores.documents))
    values = scores.rows.get("fve")
    return tuple(_row(record, None if values is None else float(values[n])) for n, record in enumerate(records))


def _row(record: Record, fve: float | None) -> Explained:
    explanation = record.value.get("explanation")
    return Explained(
        source=record.text("source"),
        explanation=None if explanation is None else str(explanation),
        answer=record.text("text"),
        teacher=record.text("reference"),
        right=tuple(map(str, record.items("right"))),
        wrong=tuple(map(str, record.items("wrong"))),
        fve=fve,
    )
