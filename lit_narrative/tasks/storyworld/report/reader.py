"""Read the folder of a storyworld run.

It holds one folder a job. ``test_sft`` and ``test_final`` are the held-out tests and must be there with their
figures; every other folder that has a ``metrics.csv`` is a training job. What else a job keeps (samples, SAEs, its
configuration) is read where it is there.
"""

import csv
from pathlib import Path

from lit_narrative.errors import UserError
from lit_narrative.report.records import Record, finite, read_record, read_records
from lit_narrative.report.run_folder import read_cell, read_config, read_curves, read_run_folder
from lit_narrative.tasks.storyworld.report.run import (
    Cycle,
    Feature,
    HeldOutTest,
    Issue,
    Job,
    Level,
    Outcome,
    Run,
    Sample,
    Soundness,
    TopState,
    TrainingSample,
    TurnOutcome,
)

BEFORE, AFTER = "test_sft", "test_final"
"""The two held-out tests: the policy that RL starts from, and the one it ends with."""
TESTS = "test_*/verifiers/test.json"
"""Pattern of the tests in a seed's folder."""


def read_run(out: str | Path) -> Run:
    """Read what the jobs of one seed have left in ``out``: a recipe's folder without seeds, or ``seed_<n>`` in one.

    Raises:
        UserError: there is no such folder, a held-out test is missing, or a file is not what it should be.
    """
    folder = read_run_folder(Path(out), TESTS)
    (seed,) = folder.seeds
    training = seed.in_order(path.parent for path in seed.path.glob("*/metrics.csv"))
    jobs = [read_job(job) for job in training if job.name not in {BEFORE, AFTER}]
    tests = read_test(seed.path / BEFORE), read_test(seed.path / AFTER)
    return Run(folder, *tests, {job.name: job for job in jobs})


def read_test(job: Path) -> HeldOutTest:
    """Read a test job.

    Raises:
        UserError: its figures are missing.
    """
    figures, samples = job / "verifiers" / "test.json", job / "samples" / "test.jsonl"
    if not figures.is_file():
        raise UserError(
            f"'{figures}' is missing. The recipe's job '{job.name}' makes it: run "
            f"`lit-narrative run storyworld --out {job.parent}` again (finished jobs are left out)"
        )
    rows = read_records(samples) if samples.is_file() else []
    return HeldOutTest(job.name, _outcome(read_record(figures)), tuple(_sample(row) for row in rows))


def read_job(job: Path) -> Job:
    """Read a training job."""
    table = job / "samples" / "train.csv"
    return Job(
        name=job.name,
        curves=read_curves(job / "metrics.csv"),
        config=read_config(job),
        cycles=tuple(_cycle(read_record(path)) for path in sorted(job.glob("sae/cycle_*/features.json"))),
        rollouts=tuple(read_training_samples(table)) if table.is_file() else (),
    )


def read_training_samples(path: Path) -> list[TrainingSample]:
    """Read the table of the callback ``SampleTable``.

    Raises:
        UserError: a column is missing, or a cell is not a number.
    """
    with path.open(encoding="utf-8", newline="") as file:
        csv.field_size_limit(2**31 - 1)  # a text may be longer than what csv takes for a damaged file
        rows = list(csv.DictReader(file, restkey="", restval=""))
    return [_training_sample(path, row) for row in rows]


def _training_sample(path: Path, row: dict[str, str]) -> TrainingSample:
    if missing := {"step", "prompt", "text", "reward", "advantage", "finished"} - row.keys():
        raise UserError(f"{path}: column '{min(missing)}' is missing; the callback SampleTable writes it")
    scores = {name.removeprefix("rewards/"): cell for name, cell in row.items() if name.startswith("rewards/")}
    return TrainingSample(
        step=int(read_cell(path, "step", row["step"])),
        prompt=row["prompt"],
        text=row["text"],
        reward=read_cell(path, "reward", row["reward"]) if row["reward"] else None,
        rewards={name: read_cell(path, f"rewards/{name}", cell) for name, cell in scores.items() if cell},
        advantage=read_cell(path, "advantage", row["advantage"]) if row["advantage"] else None,
        # csv writes bools as Python prints them.
        finished=row["finished"] == "True",
    )


def _outcome(record: Record) -> Outcome:
    corpus, seed = record.child("corpus"), record.maybe("seed")
    if (n := int(record.number("n"))) < 1:
        raise UserError(f"{record.where}: 'n' must be at least 1, not {n}: a test without samples says nothing")
    return Outcome(
        n=n,
        level=_level(record),
        reward_ci=record.pair("reward_ci"),
        valid_json=record.number("valid_json"),
        unique=record.number("unique"),
        unique_names=record.maybe("unique_names"),
        unique_skeleton=record.maybe("unique_skeleton"),
        corpus=_level(corpus) if corpus.value else None,
        seed=None if seed is None else int(seed),
        turns=tuple(_turn(turn) for turn in record.children("turns") if "sound" in turn.child("shares").value),
    )


def _turn(record: Record) -> TurnOutcome:
    shares = record.child("shares").number("sound"), record.child("shares_ci").pair("sound")
    if (gain := record.child("gains").maybe("sound")) is None:
        return TurnOutcome(record.number("written"), *shares)
    return TurnOutcome(record.number("written"), *shares, gain, record.child("gains_ci").pair("sound"))


def _level(record: Record) -> Level:
    key = "original_total" if "original_total" in record.value else "seed_total"  # its name in runs of earlier releases
    found = _soundness(record) if "sound" in record.value else None
    return Level(record.number("reward"), record.maybe(key), record.numbers("components"), found)


def _soundness(record: Record) -> Soundness:
    return Soundness(
        n=int(record.number("n")),
        sound=record.number("sound"),
        playable=record.number("playable"),
        funnel=record.numbers("funnel"),
        effective_shapes=record.number("effective_shapes"),
        encounters=record.number("encounters"),
        adherence=record.maybe("adherence"),
    )


def _sample(record: Record) -> Sample:
    issues = (
        Issue(issue.text("path"), issue.text("message"), issue.text("severity")) for issue in record.children("issues")
    )
    return Sample(
        prompt=record.text("prompt"),
        text=record.text("text"),
        reward=record.number("reward"),
        components=record.numbers("components"),
        issues=tuple(issues),
        finished=record.value.get("finished") is not False,
    )


def _cycle(record: Record) -> Cycle:
    features = tuple(_feature(feature) for feature in record.children("features"))
    # A file may list the most telling features alone, with the count of all, or all of them without a count.
    listed = sum(feature.significant for feature in features)
    return Cycle(
        number=int(record.number("cycle")),
        metrics=record.numbers("metrics"),
        density=tuple(share for share in map(finite, record.items("density")) if share is not None),
        readout=record.numbers("readout"),
        features=features,
        significant=max(listed, int(record.maybe("significant") or 0)),
        targets=record.text("targets"),
        matched_cosine=record.maybe("matched_cosine"),
        view=record.text("view") or "states",
    )


def _feature(record: Record) -> Feature:
    return Feature(
        latent=int(record.number("latent")),
        density=record.maybe("density"),
        correlation=record.maybe("correlation"),
        conditional_mi=record.maybe("conditional_mi"),
        p=record.maybe("p"),
        q=record.maybe("q"),
        significant=record.value.get("significant") is True,
        top_states=tuple(_top_state(state) for state in record.children("top_states")),
    )


def _top_state(record: Record) -> TopState:
    return TopState(
        activation=record.number("activation"),
        encounter=record.text("encounter"),
        text=record.text("text"),
        open=tuple(map(str, record.items("open"))),
        closed=tuple(map(str, record.items("closed"))),
    )
