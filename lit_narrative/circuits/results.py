"""Results of circuit analyses read from a folder: tables of one model, and what several models have in common."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from safetensors import SafetensorError

from lit_narrative.circuits.tables import read_json
from lit_narrative.errors import UserError

if TYPE_CHECKING:
    from lit_narrative.circuits.analysis import Analysis

T = TypeVar("T")
SPLITS = "<split>"
"""Where a table is written once for each split: ``id_test/patching.csv``."""


@dataclass(frozen=True)
class Table(Generic[T]):
    """A table of an analysis on disk: the key by which `CircuitResults` gives it out.

    Attributes:
        file: the file by which the table is known to be there; ``load`` may read more files beside it.
        load: reads the table from the folder that holds the file.
        folders: where the file lies: ``""``, in the folder of the analyses itself (one table over all splits);
            ``SPLITS``, in a folder of each split; or a pattern such as ``sae/*``, in every folder that matches.
        keep: for a table over all splits, gives it with the rows of some splits only, so that two models can be
            compared where one of them was analysed on more splits; None leaves it as it is.
    """

    file: str
    load: Callable[[Path], T]
    folders: str = ""
    keep: Callable[[T, set[str]], T] | None = None

    def find(self, folder: Path, splits: Iterable[str]) -> dict[str, Path]:
        """The folders that hold the file: by split, by the last part of the pattern, or under ``""``."""
        if self.folders == SPLITS:
            places = {split: folder / split for split in splits}
        elif self.folders:
            places = {path.name: path for path in sorted(folder.glob(self.folders))}
        else:
            places = {"": folder}
        return {key: path for key, path in places.items() if (path / self.file).is_file()}

    def narrow(self, stored: Mapping[str, T], splits: Iterable[str]) -> dict[str, T]:
        """The same tables for some splits only, in their order."""
        if self.folders == SPLITS:
            return {split: stored[split] for split in splits if split in stored}
        keep = self.keep
        return dict(stored) if keep is None else {key: keep(table, set(splits)) for key, table in stored.items()}


@dataclass(frozen=True, eq=False)
class CircuitResults:
    """What analyses of one model left in a folder.

    Attributes:
        folder: where.
        manifest: what was analysed, with which settings, and of which model.
        analyses: whose tables were looked for, in the order of a page.
        tables: of each table, what was read by split (or by the folder's name, or under ``""``); empty for an analysis
            that was not done. Read it by `each` and `one`, which are typed.
    """

    folder: Path
    manifest: Mapping[str, Any]
    analyses: tuple["Analysis", ...]
    tables: Mapping[Table[Any], Mapping[str, Any]]

    @property
    def splits(self) -> list[str]:
        """The splits that were analysed, the reference split first."""
        return list(self.manifest["splits"])

    @property
    def reference_split(self) -> str | None:
        """The split that probes, means and the SAE come from."""
        return self.manifest.get("home")  # the key of every folder written so far

    def each(self, table: Table[T]) -> Mapping[str, T]:
        """A table by split, or by the name of the folder it lies in."""
        return self.tables.get(table, {})

    def one(self, table: Table[T]) -> T | None:
        """A table over all splits, if it is there."""
        return self.each(table).get("")

    def has(self, analysis: "Analysis") -> bool:
        """Whether an analysis left a table."""
        return any(self.each(table) for table in analysis.tables)

    @classmethod
    def load(cls, folder: str | Path, analyses: Iterable["Analysis"]) -> Self:
        """Read a folder that ``CircuitAnalysis`` wrote (`suite.load_results` knows our own analyses).

        Raises:
            UserError: there is no such folder, or a file in it is not what it should be.
        """
        folder, analyses = Path(folder), tuple(analyses)
        if not (folder / "manifest.json").is_file():
            raise UserError(f"'{folder}' is not a folder of circuit analyses: it has no manifest.json")
        manifest = _read(folder / "manifest.json", read_json)
        if not isinstance(manifest, dict) or not isinstance(manifest.get("splits"), dict):
            raise UserError(f"'{folder / 'manifest.json'}' names no splits; run the analyses again")
        tables: dict[Table[Any], Mapping[str, Any]] = {
            table: {key: _read(path, table.load) for key, path in table.find(folder, manifest["splits"]).items()}
            for analysis in analyses
            for table in analysis.tables
        }
        return cls(folder, manifest, analyses, tables)


def _read(path: Path, load: Callable[[Path], T]) -> T:
    # A folder may be of another release, edited or cut off: whatever field breaks, the reader needs its path.
    try:
        return load(path)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"the tables in '{path}' cannot be read ({reason}); run the analyses again") from error


Models = Mapping[str, CircuitResults]
"""Results by the name that figures give a model; a single model has the name ``""``."""


def shared(models: Models, table: Table[T]) -> dict[str, dict[str, T]]:
    """Of a table that every model has: by split (or folder), then by model; empty where one model lacks it."""
    first, *rest = (results.each(table) for results in models.values())
    common = [key for key in first if all(key in other for other in rest)]
    return {key: {model: results.each(table)[key] for model, results in models.items()} for key in common}


def labelled(models: Models, table: Table[T]) -> dict[str, T]:
    """The same as `shared`, under ``split`` for a single model and ``split (model)`` for several."""
    return {
        f"{split} ({model})" if model else split: value
        for split, by_model in shared(models, table).items()
        for model, value in by_model.items()
    }
