"""The descriptor of a circuit analysis, and the results that analyses leave in a folder.

Everything about one analysis stands in one module, under the name ``ANALYSIS``.

A module of ``circuits/analyses`` that defines ``ANALYSIS`` is an analysis of the package. A module of another package
is one too, named by its path in YAML: ``extra: {my.package.norms: {}}`` of ``CircuitAnalysis``. docs/circuits.md shows
a whole module.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, Self, TypeVar

from markupsafe import Markup
from safetensors import SafetensorError

from lit_narrative.circuits.data import AnalysisData
from lit_narrative.circuits.hooks import Progress
from lit_narrative.errors import UserError
from lit_narrative.files import read_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from transformer_lens.model_bridge import TransformerBridge


Layers = Literal["all"] | Sequence[int]
Metrics = dict[str, float]
"""Numbers of an analysis by name, such as ``id_test/accuracy``; logged as ``circuits/<analysis>/<name>``."""


@dataclass(frozen=True)
class AnalysisSettings:
    """Settings of an analysis: a subclass is a frozen dataclass whose fields have defaults and are checked."""

    def within(self, layers: Layers) -> Self:
        """The same for some layers, where there is a field ``layers`` and it says ``all``."""
        return replace(self, layers=layers) if getattr(self, "layers", None) == "all" else self  # type: ignore[call-arg]

    def tiny(self) -> Self:
        """The same with hardly any work, for a dry run (``fast_dev_run``)."""
        return self


Settings = TypeVar("Settings", bound=AnalysisSettings)


@dataclass(frozen=True, eq=False)
class AnalysisJob:
    """What an analysis works on.

    Attributes:
        bridge: the model; a copy, so that hooks and edits reach no one else.
        data: rows and pairs of every split.
        settings: of all analyses, by their YAML key.
    """

    bridge: "TransformerBridge"
    data: AnalysisData
    settings: Mapping[str, AnalysisSettings]

    def settings_of(self, kind: type[Settings]) -> Settings:
        """The settings of a class."""
        return next(settings for settings in self.settings.values() if isinstance(settings, kind))


@dataclass(frozen=True)
class About:
    """An analysis in words.

    Attributes:
        title: heading of its section.
        question: what the analysis asks of the model; may hold ``{words}`` to be filled in.
        reading: how to read the figures; the same.
        words: of the analysis' settings as the manifest holds them (possibly empty), what to fill in.
    """

    title: str
    question: str
    reading: str
    words: Callable[[Mapping[str, Any]], Mapping[str, str]] | None = None

    def filled(self, settings: Mapping[str, Any]) -> "About":
        """The same with the words that the settings make true."""
        words = {} if self.words is None else self.words(settings)
        return About(self.title, self.question.format(**words), self.reading.format(**words))


class Sketch(NamedTuple):
    """A figure to be drawn.

    Attributes:
        name: of its file, without suffix; unique over all analyses.
        title: its caption.
        draw: makes the figure, with matplotlib's default style in force (`figures.canvas` has panels and colours).
    """

    name: str
    title: str
    draw: "Callable[[], Figure]"


T = TypeVar("T")


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


Models = Mapping[str, CircuitResults]
"""Results by the name that figures give a model; a single model has the name ``""``."""


@dataclass(frozen=True, eq=False)
class Analysis:
    """The descriptor of an analysis. Only ``name``, ``about`` and ``run`` are required.

    What it writes lies in the folder of all analyses, so files and metrics need names of their own. All text that is
    returned is escaped where it is shown; only ``details`` returns HTML.

    Attributes:
        name: a Python identifier: the analysis in ``analyses`` of the callback and in manifest.json, the prefix of its
            metrics, the anchor of its section.
        about: the section's heading, question and reading.
        run: (job, folder, progress) -> metrics. Does the work and writes the tables and arrays into an empty folder.
            Called with gradients allowed, and every random state as the run's seed sets it. A `UserError` fails this
            analysis alone; NaN and infinite metrics are logged, and left out of the manifest.
        settings: settings classes by YAML key under ``settings``: one class under the analysis' own name, or none.
        paired: whether it needs contrast pairs (``data.pairs``, ``data.contrasts(split)``).
        meanings: what each metric says, for reports that show metrics alone: by its name, a split's replaced by a star
            (``*/accuracy``).
        check: (job) tries what the model or the rows may lack, before the first analysis begins and before training.

    Raises:
                UserError: something is lacking.
        work: (job) -> rows that the model reads, about, for the estimate that stands before the work: a row that is
            read backwards too counts as three, one with a hook on every edge as two.
        tables: what ``run`` leaves on disk, to be read again for pages and comparisons. An analysis has a section in a
            page only where one of its tables is there.
        draw: (models) -> figures. One model has the name "" and is alone in its panels; two, by name, are drawn side by
            side on the comparison page. `results.shared` gives what all models have.
        findings: (results) -> sentences for the section; called only where a table is there.
        details: (results) -> HTML for the end of the section.
        warnings: (results) -> sentences for the top of the page: what to know before believing any number.
        low_confidence: (folder) -> splits that the model hardly answers by the rule, as far as this analysis saw it.
        changes: (old, new) -> entries of comparison.json by key, whatever both models have; the key is the analysis'
            name. Both results are narrowed to the splits and analyses that can be compared.
        change_findings: (content of comparison.json) -> sentences for the section of the comparison page.
        order: place among the sections of a page and among the defaults of ``analyses``; ours are 10 to 80.
    """

    name: str
    about: About
    run: Callable[[AnalysisJob, Path, Progress | None], Metrics]
    settings: Mapping[str, type[AnalysisSettings]] = field(default_factory=dict)
    paired: bool = False
    meanings: Mapping[str, str] = field(default_factory=dict)
    check: Callable[[AnalysisJob], object] = lambda job: None
    work: Callable[[AnalysisJob], int] = lambda job: 0
    tables: Sequence[Table[Any]] = ()
    draw: Callable[[Models], Iterable[Sketch]] = lambda models: ()
    findings: Callable[[CircuitResults], Iterable[str]] = lambda results: ()
    details: Callable[[CircuitResults], Markup] = lambda results: Markup()
    warnings: Callable[[CircuitResults], Iterable[str]] = lambda results: ()
    low_confidence: Callable[[Path], Iterable[str]] = lambda folder: ()
    changes: Callable[[CircuitResults, CircuitResults], Mapping[str, Any]] = lambda old, new: {}
    change_findings: Callable[[Mapping[str, Any]], Iterable[str]] = lambda changes: ()
    order: int = 100


SPLITS = "<split>"
"""Where a table is written once for each split: ``id_test/patching.csv``."""


def _read(path: Path, load: Callable[[Path], T]) -> T:
    # A folder may be of another release, edited or cut off: whatever field breaks, the reader needs its path.
    try:
        return load(path)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"the tables in '{path}' cannot be read ({reason}); run the analyses again") from error


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
