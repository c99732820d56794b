"""Analyses that are done, each in a folder of its own until all are: what was killed resumes with the next analysis.

An analysis is known by its key, a checksum of all that its results depend on: its settings, the model, the rows, the
seed, the packages' versions, and the source file of an analysis of another package.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from math import isfinite, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lit_narrative.circuits.analysis import Analysis, AnalysisJob, Metrics
from lit_narrative.errors import UserError
from lit_narrative.files import atomic_folder, inside, write_json
from lit_narrative.report.records import read_record
from lit_narrative.report.run_folder import versions
from lit_narrative.seeds import run_seed

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


logger = logging.getLogger(__name__)
RECORD = "done.json"
"""The record of an analysis, beside its files."""


def model_digest(bridge: "TransformerBridge") -> str:
    """A checksum of the model's configuration and of every parameter and buffer, wherever its files lie."""
    config = {name: value for name, value in bridge.original_model.config.to_dict().items() if name != "_name_or_path"}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for tensors in (bridge.named_parameters(), bridge.named_buffers()):
        for name, tensor in tensors:
            plain = tensor.detach().cpu().contiguous()
            digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}".encode())
            digest.update(plain.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def key_of(analysis: Analysis, job: AnalysisJob, model: str, source: Path | None = None) -> str:
    """The key of an analysis.

    Args:
        analysis: which.
        job: what it works on.
        model: the model's checksum (`model_digest`).
        source: the file of an analysis of another package, which may be edited between two runs; ours change with the
            package's version.
    """
    parts = {
        "analysis": analysis.name,
        "settings": {key: asdict(job.settings[key]) for key in analysis.settings},
        "model": model,
        "rows": job.data.digest(analysis.paired),
        "seed": run_seed(),
        "versions": versions(),
        "source": None if source is None else hashlib.sha256(source.read_bytes()).hexdigest(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


@dataclass(frozen=True)
class Done:
    """The record of an analysis that is done.

    Attributes:
        key: of what it was made from (`key_of`).
        metrics: its numbers.
        files: what it wrote, relative to the folder, each with its SHA-256.
    """

    key: str
    metrics: Metrics
    files: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        """The record for JSON, which has no NaN: such metrics are null."""
        finite = {name: value if isfinite(value) else None for name, value in self.metrics.items()}
        return {"key": self.key, "metrics": finite, "files": dict(self.files)}

    @classmethod
    def from_json(cls, stored: Any) -> "Done | None":
        """The inverse of `as_json`; None of anything else."""
        match stored:
            case {"key": str(key), "metrics": dict(numbers), "files": dict(files)}:
                if all(value is None or isinstance(value, int | float) for value in numbers.values()):
                    return cls(key, {name: nan if n is None else float(n) for name, n in numbers.items()}, files)
        return None

    def is_whole(self, folder: Path) -> bool:
        """Whether its files lie in a folder as they were written.

        Raises:
            UserError: a file's name leads out of the folder.
        """
        paths = {inside(folder, name): digest for name, digest in self.files.items()}
        return all(path.is_file() and _digest(path) == digest for path, digest in paths.items())


class Store:
    """Finished analyses of one model.

    Args:
        folder: one folder an analysis, each whole or absent.
        before: the folder of an earlier run that came to its end, with its manifest: what it has with the same key is
            copied.
    """

    def __init__(self, folder: Path, before: Path) -> None:
        self.folder, self.before = folder, before
        self.earlier = _read(before / "manifest.json").get("done")

    def find(self, name: str, key: str) -> Done | None:
        """The record of an analysis with this key; None if there is none, or if it or its files are damaged."""
        kept = self.folder / name
        if done := _same(_read(kept / RECORD), key, kept):
            return done
        stored = self.earlier.get(name) if isinstance(self.earlier, dict) else None
        if done := _same(stored, key, self.before):
            with atomic_folder(kept) as folder:
                _copy(self.before, folder, done)
                write_json(folder / RECORD, done.as_json())
        return done

    def add(self, name: str, key: str, work: Callable[[Path], Metrics]) -> Done:
        """Do an analysis in a folder of its own, which is there only if all went well."""
        with atomic_folder(self.folder / name) as folder:
            metrics = work(folder)
            paths = sorted(path for path in folder.rglob("*") if path.is_file())
            done = Done(key, metrics, {path.relative_to(folder).as_posix(): _digest(path) for path in paths})
            write_json(folder / RECORD, done.as_json())
        return done

    def copy_to(self, target: Path, done: dict[str, Done]) -> None:
        """Copy the files of analyses into one folder."""
        for name, record in done.items():
            _copy(self.folder / name, target, record)


def _read(path: Path) -> Mapping[str, Any]:
    """The object in a file; an empty one where there is none, or a damaged one."""
    try:
        return read_record(path).value if path.is_file() else {}
    except UserError as error:
        logger.warning("%s; what it tells of is done again", error)
        return {}


def _same(stored: Any, key: str, folder: Path) -> Done | None:
    """A record with this key whose files are as they were; None of any other."""
    done = Done.from_json(stored)
    if done is None or done.key != key:
        return None
    if not done.is_whole(folder):
        logger.warning("%s: files of an analysis are gone or changed; it is done again", folder)
        return None
    return done


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _copy(source: Path, target: Path, done: Done) -> None:
    for file in done.files:
        path = inside(target, file)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(inside(source, file), path)
