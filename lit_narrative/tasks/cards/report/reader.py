"""Read the out folder of a recipe of the card game.

Jobs lie in the folder itself, or in ``seed_<n>`` if the recipe has several seeds. A job with ``eval/test.json`` is the
test of a policy; ``test_NAME`` tests what the job ``NAME`` has trained. A job with ``circuits/manifest.json`` is a
circuit analysis.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lit_narrative.errors import UserError
from lit_narrative.report.records import Record, read_record, read_records
from lit_narrative.report.run_folder import SeedFolder, read_config, read_curves, read_run_folder
from lit_narrative.tasks.cards.report.run import BASE, Answer, CardsRun, Circuits, Policy, Scores, SeedRun, Training

FIGURES = "eval/test.json"
TESTS = f"*/{FIGURES}"
"""Pattern of the tests in a seed's folder."""


def read_cards(out: str | Path) -> CardsRun:
    """Read what the jobs have left in ``out``; seeds without a test are left out.

    Raises:
        UserError: there is no test in it, a file is not what it should be, or the policies of a seed were tested on
            different prompts.
    """
    folder = read_run_folder(Path(out), TESTS)
    if not any(folder.seeds[0].path.glob(TESTS)):
        raise UserError(f"'{out}' holds no test of the card game: no job in it has {FIGURES}")
    return CardsRun(folder, tuple(read_seed(folder.out, seed) for seed in folder.seeds))


def read_seed(out: Path, seed: SeedFolder) -> SeedRun:
    """Read the jobs of one seed of the recipe's folder ``out``."""
    tests = seed.in_order(path.parent.parent for path in seed.path.glob(TESTS))
    tested = [read_policy(job, seed.seconds) for job in tests]
    tested.sort(key=lambda policy: policy.name != BASE)  # the base first, the others as they finished
    check_same_prompts(tested)
    policies = {policy.name: policy for policy in tested}
    circuits = [read_circuits(out, path.parent) for path in sorted(seed.path.glob("*/circuits/manifest.json"))]
    # In the order of the policies; what analyses another job comes last.
    circuits.sort(key=lambda one: [*policies, one.name].index(one.name))
    return SeedRun(seed.name, policies, tuple(circuits))


def read_policy(job: Path, seconds: Mapping[str, float]) -> Policy:
    """Read a test job, and the training of the policy that it tests.

    Raises:
        UserError: a file is not what it should be.
    """
    name, where = job.name.removeprefix("test_"), job / FIGURES
    record = read_record(where)
    scores = {split: _scores(record.child("splits").child(split)) for split in record.child("splits").value}
    training = read_training(job.parent / name, seconds.get(name))
    settings = record.child("config")
    return Policy(
        name=name,
        where=where,
        scores=scores,
        answers=read_answers(where.with_suffix(".jsonl"), scores),
        mix=settings.numbers("mix") if training is None else training.mix,
        held_out=tuple(map(str, settings.items("held_out"))),
        training=training,
    )


def _scores(record: Record) -> Scores:
    if (n := int(record.number("n"))) < 1:
        raise UserError(f"{record.where}: 'n' must be at least 1, not {n}: a set without answers says nothing")
    substitution = record.child("rule_substitution")
    shares = {rule: substitution.child(rule).maybe("all") for rule in substitution.value}
    return Scores(
        n=n,
        accuracy=record.number("accuracy"),
        interval=record.pair("accuracy_ci"),
        majority=record.number("majority"),
        lift=record.maybe("lift"),
        format_validity=record.number("format_validity"),
        trace_exact=record.maybe("trace_exact"),
        accuracy_nonzero=record.maybe("accuracy_nonzero"),
        answered_zero=record.number("answered_zero"),
        calibration_error=record.maybe("calibration_error"),
        substitution={rule: share for rule, share in shares.items() if share is not None},
    )


def read_answers(path: Path, scores: dict[str, Scores]) -> dict[str, tuple[Answer, ...]]:
    """Read the answers of a test, by set.

    Raises:
        UserError: the file is missing, or does not hold the answers that the figures are of.
    """
    if not path.is_file():
        raise UserError(f"'{path}' is missing; SetEvaluation writes it beside {path.with_suffix('.json').name}")
    by_split: dict[str, list[Answer]] = {split: [] for split in scores}
    for record in read_records(path):
        if record.text("set") not in by_split:
            raise UserError(f"{record.where}: set '{record.text('set')}' is not in {path.with_suffix('.json').name}")
        by_split[record.text("set")].append(_answer(record))
    for split, answers in by_split.items():
        # The page pairs the answers and quotes the figures: the two files must be of the same test.
        right = sum(answer.correct for answer in answers)
        if len(answers) != scores[split].n or abs(right / scores[split].n - scores[split].accuracy) > 1e-6:
            raise UserError(
                f"{path}: set '{split}' has {len(answers)} answers, {right} right, but "
                f"{path.with_suffix('.json').name} says {scores[split].n}, {scores[split].accuracy:.3f} of them right"
            )
    return {split: tuple(answers) for split, answers in by_split.items()}


def _answer(record: Record) -> Answer:
    correct = record.value.get("correct")
    if not isinstance(correct, bool):
        raise UserError(f"{record.where}: 'correct' must be true or false, not {correct!r}")
    text = record.text
    return Answer(text("prompt"), text("text"), text("answer"), text("expected"), correct)


def check_same_prompts(policies: list[Policy]) -> None:
    """Check that all policies of a seed were tested on the same prompts, so that their answers can be paired.

    Raises:
        UserError: they were not.
    """
    for one in policies[1:]:
        for split, answers in one.answers.items():
            prompts = [answer.prompt for answer in policies[0].answers.get(split, answers)]
            if prompts != [answer.prompt for answer in answers]:
                raise UserError(
                    f"{one.where} and {policies[0].where} hold answers to different prompts in '{split}': test both "
                    "with the same data settings"
                )


def read_training(job: Path, seconds: float | None) -> Training | None:
    """Read what a training job says of itself; None if it is not here.

    Raises:
        UserError: its configuration cannot be read.
    """
    table, text = job / "metrics.csv", read_config(job)
    if text is None:
        return None
    try:
        # `safe_load` makes plain values only: the folder may be someone else's.
        config = yaml.safe_load(text)
        module = str(config["model"]["class_path"]).rpartition(".")[2]
        model, data = config["model"].get("init_args", {}), config["data"].get("init_args", {})
        accumulated = int(config["trainer"].get("accumulate_grad_batches") or 1)
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"'{job / 'config.yaml'}' is not the configuration of a job: {' '.join(str(error).split())}"
        ) from error
    # Steps are counted from 0.
    logged = [step for curve in read_curves(table).values() for step, _ in curve] if table.is_file() else []
    steps = int(max(logged)) + 1 if logged else None
    each = _sequences_a_step(model, data)
    # Supervised training imitates what is in distribution, whatever the mixture of prompts.
    mix = data.get("mix") if module == "GRPOModule" else None
    return Training(
        module=module,
        config=text,
        mix={str(kind): float(weight) for kind, weight in (mix or {"id": 1.0}).items()},
        steps=steps,
        sequences=None if steps is None or each is None else steps * each * accumulated,
        seconds=seconds,
    )


def _sequences_a_step(model: dict[str, Any], data: dict[str, Any]) -> int | None:
    """Rows that one batch learns from; None where a rollout batch is split by settings that this does not know."""
    size, group = data.get("batch_size"), model.get("num_generations", 1)
    cut = model.get("generation_batch_size") or model.get("steps_per_generation")
    # A guess would be worse than a dash: budgets are what the arms are compared under.
    return size * group if isinstance(size, int) and isinstance(group, int) and not cut else None


def read_circuits(out: Path, folder: Path) -> Circuits:
    """Read the manifest of a circuit analysis."""
    # Here, for the analyses bring torch with them: a run without circuits is reported without its seconds of import.
    from lit_narrative.circuits.suite import read_low_confidence

    record = read_record(folder / "manifest.json")
    pages = [path.relative_to(out).as_posix() for path in sorted(folder.parent.rglob("*.html"))]
    errors = {name: str(reason) for name, reason in record.child("errors").value.items()}
    name = folder.parent.name.removeprefix("circuits_")
    return Circuits(name, record.numbers("figures"), errors, read_low_confidence(folder), tuple(pages))
