"""What any job leaves, whatever its task: tables of metrics, and the first of the texts that it sampled."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from lit_narrative.errors import UserError
from lit_narrative.files import decode_json, refuse_pipe
from lit_narrative.report.records import finite
from lit_narrative.report.run_folder import Curve, RunFolder, SeedFolder, read_curves, read_run_folder

HOLDING = "*/metrics*.csv"
"""Pattern of a seed's folder with a job that has come to figures."""
_SAMPLES, _FILES, _LONGEST = 4, 3, 2**20
_MAIN = ("reward", "verifiers", "sound", "valid_json", "accuracy", "loss", "perplexity", "kl")
_STAGES = ("test", "validate", "predict")


@dataclass(frozen=True, slots=True)
class Sample:
    """A text that a job wrote.

    Attributes:
        prompt: what it continues; empty where the file does not say.
        text: what was written.
        scores: name -> value.
    """

    prompt: str
    text: str
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Excerpt:
    """The head of a file of samples.

    Attributes:
        file: its path within the job's folder.
        samples: the first ones that are texts.
        unreadable: how many of the lines looked at are not.
    """

    file: str
    samples: tuple[Sample, ...]
    unreadable: int


@dataclass(frozen=True, slots=True)
class JobFolder:
    """What a job has left.

    Attributes:
        name: of the job; of a folder that is a job itself, the folder's.
        place: its path within the run's folder.
        seed: what pages call its seed.
        path: the folder.
        curves: metric -> its course in training.
        figures: metric -> value at the end of a test, a validation or a prediction.
        excerpts: of its samples.
    """

    name: str
    place: str
    seed: str
    path: Path
    curves: Mapping[str, Curve]
    figures: Mapping[str, float]
    excerpts: tuple[Excerpt, ...]


def is_job(folder: Path) -> bool:
    """Whether a folder holds the figures or the samples of a job."""
    return any(folder.glob("metrics*.csv")) or any(folder.glob("samples/*.jsonl"))


def holds_jobs(folder: Path) -> bool:
    """Whether a folder is a job's, or holds folders of jobs."""
    inner = [*folder.glob("*/"), *folder.glob("seed_*/*/")]
    return is_job(folder) or any(is_job(path) for path in inner if path.is_dir())


def read_jobs(out: Path) -> tuple[RunFolder, list[JobFolder]]:
    """Read a run's folder and its jobs: seed by seed, in the order in which they finished.

    Raises:
        UserError: there is no such folder, or a table in it is not one.
    """
    folder = read_run_folder(out, HOLDING)
    if is_job(out):
        return folder, [_read_job(out, out, "this run")]
    return folder, [_read_job(path, out, seed.name) for seed in folder.seeds for path in _jobs(seed)]


def _jobs(seed: SeedFolder) -> list[Path]:
    return seed.in_order(path for path in seed.path.iterdir() if path.is_dir() and is_job(path))


def _read_job(path: Path, out: Path, seed: str) -> JobFolder:
    table = path / "metrics.csv"
    curves = read_curves(table) if table.is_file() else {}
    figures: dict[str, float] = {}
    for stage in _STAGES:
        ended = path / f"metrics_{stage}.csv"
        if ended.is_file():
            figures |= {name: curve[-1][1] for name, curve in read_curves(ended).items() if name != "epoch"}
    name = path.resolve().name
    return JobFolder(name, path.relative_to(out).as_posix(), seed, path, curves, figures, _excerpts(path))


def _excerpts(path: Path) -> tuple[Excerpt, ...]:
    files = [*sorted(path.glob("samples/*.jsonl"), key=_stage), *sorted(path.glob("rollouts/*.jsonl"))[-1:]]
    return tuple(read_excerpt(file, file.relative_to(path).as_posix()) for file in files[:_FILES])


def _stage(file: Path) -> tuple[bool, str]:
    return not file.stem.startswith(("test", "predict")), file.name


def read_excerpt(path: Path, name: str) -> Excerpt:
    """Read the first samples of a file; of a text that a model wrote nothing is too odd to go on.

    Args:
        path: of the JSON Lines file.
        name: what pages call it.
    """
    refuse_pipe(path)
    with path.open("rb") as file:
        lines = [line for line in islice(iter(lambda: file.readline(_LONGEST), b""), _SAMPLES) if line.strip()]
    found = [_sampled(line) for line in lines]
    return Excerpt(name, tuple(one for one in found if one), sum(one is None for one in found))


def _sampled(line: bytes) -> Sample | None:
    try:
        row = decode_json(line.decode("utf-8", errors="replace"), "a sample")
    except UserError:
        return None
    if not isinstance(row, dict):
        return None
    text = next((row[key] for key in ("text", "completion") if isinstance(row.get(key), str)), None)
    prompt = row.get("prompt")
    return None if text is None else Sample(prompt if isinstance(prompt, str) else "", text, _scores(row))


def _scores(row: Mapping[str, Any]) -> dict[str, float]:
    parts = [row, *(row[key] for key in ("rewards", "components", "scores") if isinstance(row.get(key), dict))]
    values = {str(name): finite(value) for part in parts for name, value in part.items()}
    return {name: value for name, value in values.items() if value is not None}


def main_first(names: Iterable[str]) -> list[str]:
    """Put metrics in order: the main ones (behind the reward its parts), others, parts of others, each by name."""
    return sorted((name for name in names if name != "epoch"), key=_rank)


def _rank(name: str) -> tuple[int, int, str]:
    short = name.removeprefix("val/").removeprefix("test/").removeprefix("train/")
    if short.startswith("rewards/") and short.endswith("/mean"):
        return (_MAIN.index("reward"), short.count("/"), name)
    return (_MAIN.index(short) if short in _MAIN else len(_MAIN), short.count("/"), name)


def thinned(curve: Curve, most: int) -> Sequence[tuple[float, float]]:
    """At most ``most`` points of a curve, evenly, with its last."""
    every = -(-len(curve) // most)
    return [*curve[:-1:every], curve[-1]]
